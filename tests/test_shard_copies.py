"""Shards on a node's own disk: copied once, checked, shared by its ranks; and a disk that has no room."""

import shutil
import socket
import threading
from collections import namedtuple
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import shard_copies
from jobs.dataset import Manifest, Shard
from jobs.errors import InputError
from jobs.files import sha256_file
from jobs.shard_copies import FOLDER, ShardCopies
from jobs.train.data import reader
from jobs.train.data.reader import read_shards

ROWS = 4  # of each shard


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Return a folder of three shards of images of 2 × 3 pixels."""
    (tmp_path / "dataset" / "train").mkdir(parents=True)
    for number in range(3):
        table = pa.table(
            {
                "image": pa.array([[value / 10] * 6 for value in range(ROWS)], pa.list_(pa.float32())),
                "label": pa.array(range(ROWS), pa.int32()),
                "index": pa.array(range(number * ROWS, (number + 1) * ROWS), pa.int64()),
            }
        )
        pq.write_table(table, tmp_path / "dataset" / f"train/part-{number:05}.parquet")
    return tmp_path / "dataset"


@pytest.fixture
def shards(dataset: Path) -> list[Shard]:
    return [
        Shard(
            path=f"train/{path.name}", rows=ROWS, first_index=number * ROWS,
            bytes=path.stat().st_size, sha256=sha256_file(path),
        )
        for number, path in enumerate(sorted((dataset / "train").iterdir()))
    ]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that a job names for the copies."""
    folder = tmp_path / "shards"
    folder.mkdir()
    monkeypatch.setenv(FOLDER, str(folder))
    return folder


def indices(dataset: Path, shards: Sequence[Shard]) -> list[int]:
    """Return the archive rows of shards, read as a rank reads them."""
    rows = dict(read_shards(dataset, Manifest.model_construct(shape=(2, 3, 1)), shards, threads=2))
    return [int(index) for position in sorted(rows) for index in rows[position].indices]


def test_later_epochs_read_the_copies_and_the_same_rows(dataset: Path, shards: Sequence[Shard], folder: Path) -> None:
    assert indices(dataset, shards) == list(range(3 * ROWS))
    copies = folder / dataset.name
    assert [(copies / shard.path).read_bytes() for shard in shards] == [
        (dataset / shard.path).read_bytes() for shard in shards
    ]
    assert sorted(path.name for path in (copies / "train").iterdir()) == [Path(shard.path).name for shard in shards]
    shutil.rmtree(dataset / "train")
    assert indices(dataset, shards) == list(range(3 * ROWS))


def test_a_shard_whose_bytes_are_not_the_manifests_is_refused(
    dataset: Path, shards: Sequence[Shard], folder: Path
) -> None:
    path = dataset / shards[0].path
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(InputError, match=r"part-00000\.parquet: found bytes other than those of the manifest"):
        ShardCopies(dataset, shards).made(str(path))
    assert list((folder / dataset.name / "train").iterdir()) == []


@pytest.mark.parametrize("start", [4, -20], ids=["a page", "the footer"])
def test_a_damaged_copy_is_named_by_its_node_and_its_shard(
    dataset: Path, shards: Sequence[Shard], folder: Path, start: int
) -> None:
    indices(dataset, shards)
    copy = folder / dataset.name / shards[1].path
    data = bytearray(copy.read_bytes())
    data[start : start + 12] = b"\xff" * 12
    copy.write_bytes(data)
    with pytest.raises(InputError) as caught:
        indices(dataset, shards)
    error = str(caught.value)
    found = f"{dataset / shards[1].path}: found no valid Parquet in its copy on node {socket.gethostname()} ("
    assert error.startswith(found)
    assert error.endswith("), expected a shard; fix: run it again, which copies the shard again")
    lost = OSError(5, "Input/output error", str(copy))
    assert str(reader._unreadable(str(copy), lost, ShardCopies(dataset, shards))) == (
        f"[Errno 5] Input/output error, in its copy on node {socket.gethostname()}: '{dataset / shards[1].path}'"
    )


def test_ranks_of_a_node_copy_a_shard_once(
    dataset: Path, shards: Sequence[Shard], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = shards[0]
    make, made = shard_copies._make, []

    def slowly(origin: shard_copies._Origin) -> None:
        made.append(origin.file)
        threading.Event().wait(0.2)
        make(origin)

    monkeypatch.setattr(shard_copies, "_make", slowly)
    path, paths = str((dataset / shard.path).resolve()), []
    ranks = [threading.Thread(target=lambda: paths.append(ShardCopies(dataset, [shard]).made(path))) for _ in range(3)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert len(made) == 1
    assert paths == [str(folder / dataset.name / shard.path)] * 3


def test_the_claim_of_a_killed_rank_is_taken_over(dataset: Path, shards: Sequence[Shard], folder: Path) -> None:
    shard = shards[0]
    copy = folder / dataset.name / shard.path
    copy.parent.mkdir(parents=True)
    claim = copy.with_name(f".{copy.name}.claim")
    assert shard_copies._is_claimed_by_us(claim)
    claim.write_text(claim.read_text().replace('"began": ', '"began": 1'))  # another process had this PID
    assert ShardCopies(dataset, [shard]).made(str((dataset / shard.path).resolve())) == str(copy)


@pytest.mark.parametrize("torn", ["", '{"host": "n1"', "[]", '{"host": "n1"}'])
def test_a_claim_that_a_power_cut_left_torn_is_taken_over(
    dataset: Path, shards: Sequence[Shard], folder: Path, torn: str
) -> None:
    copy = folder / dataset.name / shards[0].path
    copy.parent.mkdir(parents=True)
    copy.with_name(f".{copy.name}.claim").write_text(torn)
    assert ShardCopies(dataset, shards[:1]).made(str((dataset / shards[0].path).resolve())) == str(copy)
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


def test_a_disk_without_room_leaves_shards_at_their_source_with_one_line(
    dataset: Path,
    shards: Sequence[Shard],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100_000_000, 96_000_000, 4_000_000))
    assert indices(dataset, shards) == list(range(3 * ROWS))
    assert [record.message for record in caplog.records] == [
        f"train: {folder / dataset.name}: No space left on device; reading shards at their source"
    ]
    assert not [path for path in folder.rglob("*") if path.is_file()]
