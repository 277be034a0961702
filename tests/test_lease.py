"""Leases: processes wait for them, no dead process holds them, and they need no kernel file locks."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from jobs.dataset import SPLITS, read_manifest, verify
from jobs.lease import HeldError, Lease
from jobs.prepare.config import PrepareConfig
from jobs.prepare.stage import dataset_id
from jobs.process import this_process
from jobs.run_dir import Work
from tests.support.prepared import Made, new_run, start
from tests.test_lock import wait_for

# Takes a lease, reports it, and releases it when its standard input ends.
HOLDER = """
import sys
from pathlib import Path
from jobs.lease import Lease
from jobs.logs import log_to_stderr
log_to_stderr()
with Lease(Path(sys.argv[1]), "dataset 7", waits=True):
    print("taken", flush=True)
    sys.stdin.read()
"""

# Takes a lease, and is killed while it releases it: before it removes its first file.
DIES = """
import os, signal, sys
from pathlib import Path
from jobs.lease import Lease
with Lease(Path(sys.argv[1]), "dataset 7"):
    Path.unlink = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
"""


def hold(path: Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER, str(path)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe, stderr=pipe, env=env)


def line_of(stream: Any) -> str:
    line: str = stream.readline()
    return line.strip()


@pytest.mark.parametrize("ends", ["releases it", "is killed"])
def test_a_waiting_process_logs_the_owner_once_and_comes_next(tmp_path: Path, ends: str) -> None:
    with hold(tmp_path / "it.json") as first, hold(tmp_path / "it.json") as second:
        for process, other in ((first, second), (second, first)):
            if not (tmp_path / "it.json").exists():
                wait_for((tmp_path / "it.json").exists)
            if json.loads((tmp_path / "it.json").read_text())["pid"] == process.pid:
                holder, waiting = process, other
        assert line_of(holder.stdout) == "taken"
        message = f"dataset 7: process {holder.pid} on {os.uname().nodename} is working on it; waiting"
        assert line_of(waiting.stderr) == message
        if ends == "is killed":
            holder.send_signal(signal.SIGKILL)
        else:
            holder.communicate()
        assert line_of(waiting.stdout) == "taken"
        assert waiting.communicate()[1] == ""  # it was logged once
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_is_killed_while_it_releases_a_lease_leaves_it_to_the_next(tmp_path: Path) -> None:
    path = tmp_path / "it.json"
    assert subprocess.run([sys.executable, "-c", DIES, str(path)], check=False).returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2  # the lease, and the dead process's claim to it
    done = subprocess.run(
        [sys.executable, "-c", HOLDER, str(path)], input="", capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "taken"
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_does_not_wait_is_refused(tmp_path: Path) -> None:
    with hold(tmp_path / "it.json") as process:
        assert line_of(process.stdout) == "taken"
        message = (
            rf"^dataset 7: process {process.pid} on \S+ is working on it \(seen running just now\); fix: wait for it$"
        )
        with pytest.raises(HeldError, match=message), Lease(tmp_path / "it.json", "dataset 7"):
            pass
        process.communicate()


def test_everyone_may_read_the_owner_whatever_the_umask(tmp_path: Path) -> None:
    umask = os.umask(0o077)
    try:
        with Lease(tmp_path / "it.json", "it"):
            assert (tmp_path / "it.json").stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(umask)


def test_an_owner_hidden_from_proc_is_judged_by_the_age_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, pid = tmp_path / "it.json", 0x7FFFFFF0

    def kill(number: int, _: int) -> None:
        raise PermissionError if number == pid else ProcessLookupError

    owner = vars(this_process()) | {"nonce": "0" * 16, "pid": pid, "began": 5}
    path.write_text(json.dumps(owner))
    monkeypatch.setattr(os, "kill", kill)  # as for another user's process under hidepid=2
    with pytest.raises(HeldError, match="last sign of life 0 s ago"), Lease(path, "it"):
        pass
    os.utime(path, (1, 1))
    with Lease(path, "it"):
        pass


@pytest.mark.long
def test_two_prepares_of_one_dataset_take_turns_without_flock(
    small: Made, tmp_path: Path, without_flock: Mapping[str, str]
) -> None:
    config, work = PrepareConfig(rows_per_shard=20), Work(tmp_path)
    runs = [new_run(tmp_path, small.archives, config, f"r{number}") for number in range(2)]
    with start(runs[0], without_flock) as first:
        wait_for(lambda: list(work.datasets.glob(".tmp-*")))
        with start(runs[1], without_flock) as second:
            logs = [process.communicate()[1] for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], logs
    name = dataset_id(config, small.archives)
    who = f"process {first.pid} on {os.uname().nodename}"
    assert logs[1].splitlines() == [
        f"prepare: dataset {name}: {who} is working on it; waiting",
        f"prepare: dataset {name} already exists",
    ]
    assert [path.name for path in work.datasets.iterdir()] == [name]
    assert list(work.locks.iterdir()) == []
    verify(work.datasets / name, read_manifest(work.datasets / name), *SPLITS)


def test_whether_a_dataset_exists_is_checked_under_its_lease(
    small: Made, tmp_path: Path, as_made: Callable[[Path], Work]
) -> None:
    """`idxtrain prune` may hold the lease to remove the dataset."""
    work = as_made(tmp_path)
    name, run = small.directory.name, new_run(tmp_path, small.archives, small.config)
    with Lease(work.lease_file(f"dataset-{name}"), "it"):
        process = start(run)
        assert process.stderr
        assert line_of(process.stderr).endswith("is working on it; waiting")
    stderr = process.communicate()[1]
    assert process.returncode == 0, stderr
    assert stderr == f"prepare: dataset {name} already exists\n"


@pytest.fixture
def as_made(small: Made) -> Callable[[Path], Work]:
    """Return a function that puts the small dataset into another work folder."""

    def put(folder: Path) -> Work:
        work = Work(folder)
        work.locks.mkdir()
        work.datasets.mkdir()
        subprocess.run(["cp", "-a", str(small.directory), str(work.datasets)], check=True)
        return work

    return put
