"""The lock of a run, with real processes: one owner at a time, never held forever, never taken from a live owner."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from jobs import lease
from jobs.errors import InputError
from jobs.run_dir import RunDir
from pipelines.lock import RunLock

# Takes the lock, prints that it has it, and holds it until its standard input ends. A refusal is printed, too.
HOLDER = """
import sys
from pathlib import Path
from jobs.errors import InputError
from jobs.run_dir import RunDir
from jobs import lease
from pipelines.lock import RunLock
lease._REFRESH_SECONDS = 0.05
sys.stdin.readline()  # wait for the start
try:
    with RunLock(RunDir(Path(sys.argv[1]))):
        print("taken", flush=True)
        sys.stdin.read()
except InputError as error:
    print(error, flush=True)
"""
Holder = subprocess.Popen[str]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "runs" / "r1")
    run.path.mkdir(parents=True)
    return run


@pytest.fixture
def new(run: RunDir) -> Iterator[Callable[[], Holder]]:
    """Return a function that starts a process, which takes the lock after `start_taking`."""
    with ExitStack() as stack:

        def start() -> Holder:
            command = [sys.executable, "-c", HOLDER, str(run.path)]
            process = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start


def start_taking(process: Holder) -> None:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


def answer(process: Holder) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def try_once(process: Holder) -> str:
    start_taking(process)
    return answer(process)


def lock_file(run: RunDir) -> Path:
    return run.path / "lock.json"


def forge(run: RunDir, **changes: Any) -> None:
    """Write a lock as another owner would."""
    me = RunLock(run)._me
    values = {"nonce": "0" * 16, "host": me.host, "machine": me.machine, "pid": me.pid, "began": me.began}
    lock_file(run).write_text(json.dumps(values | changes), encoding="utf-8")


def grow_old(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- an owner on this machine


def test_a_second_process_is_refused_in_one_line_that_names_the_first(run: RunDir, new: Callable[[], Holder]) -> None:
    first = new()
    assert try_once(first) == "taken"
    grow_old(lock_file(run), 3600)  # on the same machine the process decides, not the clock
    refusal = try_once(new())
    assert f"--run-id r1: process {first.pid} on {os.uname().nodename} is working on it" in refusal
    assert "fix: wait for it, or give another --run-id" in refusal


def test_the_lock_is_released_at_the_end_and_leaves_no_file(run: RunDir, new: Callable[[], Holder]) -> None:
    for _ in range(2):
        process = new()
        assert try_once(process) == "taken"
        assert [path.name for path in run.path.iterdir()] == ["lock.json"]
        process.communicate()
        assert process.returncode == 0
        assert list(run.path.iterdir()) == []


def test_the_lock_is_released_after_an_error(run: RunDir) -> None:
    with pytest.raises(OSError, match="full"), RunLock(run):
        raise OSError("full")
    assert list(run.path.iterdir()) == []


@pytest.mark.parametrize("reaped", [True, False])
def test_the_lock_of_a_killed_owner_is_taken_over_at_once(run: RunDir, new: Callable[[], Holder], reaped: bool) -> None:
    first, second = new(), new()
    assert try_once(first) == "taken"
    first.send_signal(signal.SIGKILL)
    if reaped:
        first.wait()
    else:  # a zombie, as a batch system's shell may leave it for a long time
        os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)
    assert try_once(second) == "taken"
    assert [path.name for path in run.path.iterdir()] == ["lock.json"]


def test_a_stopped_owner_keeps_the_lock(run: RunDir, new: Callable[[], Holder]) -> None:
    first = new()
    assert try_once(first) == "taken"
    first.send_signal(signal.SIGSTOP)
    grow_old(lock_file(run), 3600)
    assert f"process {first.pid} on" in try_once(new())


def test_a_reused_pid_does_not_hold_the_lock(run: RunDir) -> None:
    forge(run, began=RunLock(run)._me.began - 1)
    with RunLock(run):
        assert json.loads(lock_file(run).read_text())["nonce"] != "0" * 16


def test_the_owner_cannot_take_the_lock_twice(run: RunDir) -> None:
    with RunLock(run), pytest.raises(InputError, match=f"process {os.getpid()} on"), RunLock(run):
        pass
    assert not lock_file(run).exists()


# --- an owner elsewhere


@pytest.mark.parametrize("where", [{"host": "elsewhere"}, {"machine": "another container"}])
def test_an_owner_elsewhere_counts_as_dead_when_its_lease_has_expired(run: RunDir, where: dict[str, str]) -> None:
    forge(run, **where, pid=12)
    host = re.escape(where.get("host", os.uname().nodename))
    for age in (0, 50):
        grow_old(lock_file(run), age)
        said = rf"process 12 on {host} is working on it \(last sign of life {age} s ago; after 60 s it counts as gone\)"
        with pytest.raises(InputError, match=said), RunLock(run):
            pass
    grow_old(lock_file(run), 61)
    with RunLock(run):
        assert json.loads(lock_file(run).read_text())["pid"] == os.getpid()
    assert list(run.path.iterdir()) == []


def test_a_live_owner_keeps_touching_the_lock(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_REFRESH_SECONDS", 0.02)
    with RunLock(run):
        for _ in range(2):
            grow_old(lock_file(run), 3600)
            wait_for(lambda: time.time() - lock_file(run).stat().st_mtime < 60)


def test_an_owner_that_slept_too_long_stops_and_leaves_the_lock_to_its_successor(
    run: RunDir, new: Callable[[], Holder]
) -> None:
    first = new()
    assert try_once(first) == "taken"
    first.send_signal(signal.SIGSTOP)
    # As if another host had taken over the lock.
    lock_file(run).unlink()
    forge(run, host="elsewhere", pid=12)
    grow_old(lock_file(run), 3600)
    first.send_signal(signal.SIGCONT)
    assert first.wait(timeout=20) == -signal.SIGTERM
    assert json.loads(lock_file(run).read_text())["host"] == "elsewhere"
    assert time.time() - lock_file(run).stat().st_mtime > 3000  # and was not touched


# --- a lock file after a power cut


@pytest.mark.parametrize("content", [b"", b'{"nonce": "00', b"\xff\0", b"[]", b'{"nonce": "../../x", "host": "h"}'])
def test_a_torn_lock_is_refused_while_it_is_fresh(run: RunDir, content: bytes) -> None:
    lock_file(run).write_bytes(content)
    with pytest.raises(InputError, match=r"lock\.json: names no process \(last sign of life 0 s ago"), RunLock(run):
        pass
    assert lock_file(run).read_bytes() == content
    grow_old(lock_file(run), 61)
    with RunLock(run):
        pass
    assert list(run.path.iterdir()) == []


# --- races


def leave_stale(run: RunDir, kind: str) -> None:
    lock_file(run).unlink(missing_ok=True)
    if kind == "dead":
        forge(run, began=1)
    elif kind == "elsewhere":
        forge(run, host="elsewhere")
        grow_old(lock_file(run), 61)
    elif kind == "torn":
        lock_file(run).write_text("")
        grow_old(lock_file(run), 61)


@pytest.mark.parametrize("kind", ["none", "dead", "elsewhere", "torn"])
def test_exactly_one_of_eight_concurrent_processes_gets_the_lock(
    run: RunDir, new: Callable[[], Holder], kind: str
) -> None:
    leave_stale(run, kind)
    processes = [new() for _ in range(8)]
    for process in processes:
        start_taking(process)
    answers = [answer(process) for process in processes]
    assert answers.count("taken") == 1
    winner = processes[answers.index("taken")]
    assert all(f"process {winner.pid} on" in text for text in answers if text != "taken")
    assert [path.name for path in run.path.iterdir()] == ["lock.json"]


# Takes the lock as often as it can and proves each time that it is the only owner. Sometimes it dies as the owner.
CONTENDER = """
import os, random, signal, sys, time
from pathlib import Path
from jobs.errors import InputError
from jobs.run_dir import RunDir
from jobs import lease
from pipelines.lock import RunLock
run, inside = RunDir(Path(sys.argv[1])), Path(sys.argv[2])
lease._RETRY_SECONDS = 0
taken, end = 0, time.monotonic() + 2
while time.monotonic() < end or not taken:
    try:
        with RunLock(run):
            os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
            taken += 1
            inside.unlink()
            if random.random() < 0.02:
                os.kill(os.getpid(), signal.SIGKILL)
    except InputError:
        pass
"""


def test_the_lock_never_has_two_owners_at_once(run: RunDir, tmp_path: Path) -> None:
    deadline, codes = time.monotonic() + 3, []
    command = [sys.executable, "-c", CONTENDER, str(run.path), str(tmp_path / "inside")]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    while processes:
        process = processes.pop()
        _, stderr = process.communicate(timeout=60)
        codes.append(process.returncode)
        assert process.returncode in (0, -signal.SIGKILL), stderr
        if process.returncode and time.monotonic() < deadline:
            processes.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    assert codes.count(-signal.SIGKILL) > 1


def at_the_next_link(monkeypatch: pytest.MonkeyPatch, name: str, act: Callable[[], None]) -> None:
    """Call `act` just before a file is linked to a name that starts with `name`."""
    link = os.link

    def linking(source: Path, target: Path) -> None:
        if Path(target).name.startswith(name):
            monkeypatch.setattr(os, "link", link)
            act()
        link(source, target)

    monkeypatch.setattr(os, "link", linking)


def test_a_slow_process_does_not_take_the_lock_from_the_new_owner(
    run: RunDir, new: Callable[[], Holder], monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_stale(run, "dead")
    faster = new()

    def let_the_other_win() -> None:
        assert try_once(faster) == "taken"

    at_the_next_link(monkeypatch, ".after-", let_the_other_win)
    with pytest.raises(InputError, match=f"process {faster.pid} on"), RunLock(run):
        pass
    assert json.loads(lock_file(run).read_text())["pid"] == faster.pid
    assert [path.name for path in run.path.iterdir()] == ["lock.json"]


def test_the_claim_of_a_process_that_died_while_taking_over_is_taken_over(run: RunDir) -> None:
    leave_stale(run, "dead")
    forge_claim = lock_file(run).read_text().replace("0" * 16, "1" * 16)
    (run.path / f".after-{'0' * 16}.lock").write_text(forge_claim)
    with RunLock(run):
        assert json.loads(lock_file(run).read_text())["pid"] == os.getpid()
    assert list(run.path.iterdir()) == []


def test_an_owner_whose_lock_is_being_taken_over_leaves_it_alone(run: RunDir) -> None:
    lock = RunLock(run)
    with lock:
        claim = run.path / f".after-{lock._me.nonce}.lock"
        claim.write_text(lock_file(run).read_text())
    assert lock_file(run).exists()
    assert claim.exists()


def test_a_link_request_repeated_by_a_network_file_system_still_takes_the_lock(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def link_twice(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", link_twice)
    with RunLock(run):
        assert lock_file(run).exists()
    assert list(run.path.iterdir()) == []
