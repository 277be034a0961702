"""Rows that the ranks of a node share: real processes, which read the same shards, die, or cannot share."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from jobs.train.data.row_cache import ALIGNMENT, RowCache
from jobs.train.shared_memory import PAGE, SharedMemory
from tests.support import machines
from tests.support.tiny_shards import ROWS, SHARDS, write_shards

SMALL = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=16k small /dev/shm && exec "$@"', "sh")
ELSEWHERE = ("unshare", "--pid", "--fork", "--mount-proc")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "manifest.json").write_text(write_shards(tmp_path).model_dump_json())
    return tmp_path


class Ranks:
    """Ranks of one node, each a process of `tests.support.sharing_rank`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.processes = folder, list[subprocess.Popen[str]]()

    def start(self, rank: int, ranks: int, *flags: str, prefix: Sequence[str] = ()) -> "subprocess.Popen[str]":
        command = [*prefix, sys.executable, "-m", "tests.support.sharing_rank", str(self.folder), str(rank), str(ranks)]
        process = subprocess.Popen([*command, *flags], text=True, stderr=subprocess.PIPE)
        self.processes.append(process)
        return process

    def results(self) -> list[dict[str, Any]]:
        """Return what the ranks wrote, once all have ended well."""
        for process in self.processes:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
        return [json.loads((self.folder / f"{rank}.json").read_text()) for rank in range(len(self.processes))]

    def wait_until_held(self, rank: int) -> None:
        deadline = time.monotonic() + 300
        while not (self.folder / f"{rank}.held").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.fixture
def ranks(folder: Path) -> Iterator[Ranks]:
    ranks = Ranks(folder)
    yield ranks
    for process in ranks.processes:
        process.kill()
        process.communicate()


def check_rows(results: Sequence[dict[str, Any]]) -> None:
    for epoch in range(2):
        assert sorted(row for result in results for row in result["rows"][epoch]) == list(range(ROWS * SHARDS))


@pytest.mark.parametrize("count", [2, 4])
def test_ranks_of_a_node_decode_each_shard_once_and_get_their_rows(ranks: Ranks, count: int) -> None:
    for rank in range(count):
        ranks.start(rank, count)
    results = ranks.results()
    check_rows(results)
    assert all(result["shares"] for result in results)
    assert sorted(shard for result in results for shard in result["decoded"]) == list(range(SHARDS))


def test_the_only_rank_of_a_node_shares_nothing(ranks: Ranks) -> None:
    ranks.start(0, 1)
    alone = ranks.results()[0]
    assert not alone["shares"]
    assert sorted(alone["decoded"]) == list(range(SHARDS))


def wait_until_joined(rank: "subprocess.Popen[str]") -> None:
    """Wait until a rank has opened another's memory, which it could not once that one is killed."""
    deadline = time.monotonic() + 300
    while not any("memfd:idxtrain" in line.path for line in psutil.Process(rank.pid).memory_maps()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_claim_of_a_killed_rank_is_waited_for_and_nothing_remains(ranks: Ranks) -> None:
    """The launcher ends a rank whose peer has died; until then it decodes what else it needs."""
    held, waiting = ranks.start(0, 2, "hold"), ranks.start(1, 2)
    ranks.wait_until_held(0)
    assert "/memfd:idxtrain (deleted)" in Path(f"/proc/{held.pid}/maps").read_text()  # no file has a name
    wait_until_joined(waiting)
    held.send_signal(signal.SIGKILL)
    held.wait()
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(timeout=3)
    waiting.kill()
    waiting.wait()
    assert not (ranks.folder / "1.json").exists()


def test_the_lock_of_a_killed_rank_is_released(ranks: Ranks) -> None:
    held = ranks.start(0, 2, "lock")
    other = ranks.start(1, 2)
    ranks.wait_until_held(0)
    wait_until_joined(other)
    held.kill()
    held.wait()
    _, errors = other.communicate(timeout=300)
    assert other.returncode == 0, errors
    result = json.loads((ranks.folder / "1.json").read_text())
    assert result["shares"]
    assert len(result["decoded"]) > SHARDS // 2  # what it needed in two epochs: nobody else read


@pytest.mark.parametrize(
    ("prefixes", "flags", "shares"),
    [
        pytest.param(((), ()), ("no-memfd",), True, id="a file in /dev/shm without a name"),
        pytest.param((SMALL, ()), (), True, id="a small /dev/shm, as in a container"),
        pytest.param((SMALL, ()), ("no-memfd",), False, id="no room"),
        pytest.param(((), ELSEWHERE), (), False, id="in containers of their own"),
    ],
)
def test_where_ranks_cannot_share_each_keeps_its_own_rows(
    ranks: Ranks, prefixes: Sequence[Sequence[str]], flags: Sequence[str], shares: bool
) -> None:
    if any(prefixes) and machines.missing()[0]:
        pytest.skip(machines.missing()[0])
    for rank, prefix in enumerate(prefixes):
        ranks.start(rank, 2, *flags, prefix=prefix)
    results = ranks.results()
    check_rows(results)
    assert results[1]["shares"] is shares
    decoded = sorted(shard for result in results for shard in result["decoded"])
    assert (decoded == list(range(SHARDS))) is shares


def test_memory_is_joined_by_the_offer_of_its_own_process_alone() -> None:
    memory = SharedMemory.create(3 * PAGE)
    array = memory.array((5, 7), np.float32)
    array[:] = np.arange(35).reshape(5, 7)
    joined = SharedMemory.join(memory.offer, 3 * PAGE)
    assert joined
    np.testing.assert_array_equal(joined.array((5, 7), np.float32), array)
    process, descriptor, token = memory.offer
    pipe, other_end = os.pipe()
    for offer, size in (
        ((process, descriptor, token), 4 * PAGE),  # another data set's
        ((process, descriptor, token + 1), 3 * PAGE),  # another job's of the same size
        ((process, pipe, token), 3 * PAGE),
        ((process, 10**6, token), 3 * PAGE),
        ((2**22 + 1, descriptor, token), 3 * PAGE),
    ):
        assert SharedMemory.join(np.array(offer), size) is None
    os.close(pipe)
    os.close(other_end)
    assert oct(os.stat(f"/proc/{process}/fd/{descriptor}").st_mode)[-3:] == "600"  # noqa: PTH116


def test_a_shared_row_cache_is_aligned_and_takes_no_more_than_its_memory() -> None:
    memory = SharedMemory.create(4 * PAGE)
    cache = RowCache((3, 5), None, 7, "uint8", SharedMemory.join(memory.offer, 4 * PAGE))
    assert cache.nbytes == 8 * (7 + 12)
    for _ in range(4):
        assert memory.array((3,), np.uint8).ctypes.data % ALIGNMENT == 0
    with pytest.raises(ValueError, match="buffer"):
        memory.array((1,), np.uint8)
