"""A launcher and its predecessor of the same run: it waits for running processes and kills stalled ones."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

from deploy.launcher import predecessor
from jobs.errors import InputError
from jobs.process import ProcessId, this_process
from jobs.run_dir import RunDir
from tests.test_launcher import LAUNCHER, wait_for

Orphan = subprocess.Popen[bytes]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "runs/r1")
    run.heartbeats.mkdir(parents=True)
    return run


@pytest.fixture
def orphan(run: RunDir) -> Iterator[Orphan]:
    """A rank whose launcher is dead."""
    launcher = subprocess.Popen(["true"])
    with subprocess.Popen(["sleep", "600"]) as process:
        dead = replace(identity(launcher.pid), began=1)
        (run.heartbeats / "launcher.json").write_text(json.dumps(asdict(dead)))
        beat = {"step": 7, "phase": "step", "progress": 1, "longest": 0.0, **asdict(identity(process.pid))}
        (run.heartbeats / "rank-0.json").write_text(json.dumps(beat))
        launcher.wait()
        yield process
        process.kill()


def identity(pid: int) -> ProcessId:
    began = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return replace(this_process(), pid=pid, began=int(began))


def start(run: RunDir, *options: str) -> "subprocess.Popen[str]":
    program = f"open({str(run.path / 'trained')!r}, 'w')"
    command = [*LAUNCHER, "--np", "1", "--run-dir", str(run.path), *options, sys.executable, "-c", program]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def test_a_launcher_waits_for_a_rank_of_its_dead_predecessor(run: RunDir, orphan: Orphan) -> None:
    process = start(run)
    assert process.stderr
    line = process.stderr.readline()
    assert line.startswith(f"train: waiting for an earlier training of this run to stop: process {orphan.pid} on ")
    time.sleep(1)
    assert not (run.path / "trained").exists()
    orphan.kill()
    orphan.wait()
    assert process.wait(30) == 0
    assert (run.path / "trained").exists()
    process.stderr.close()


@pytest.mark.long
def test_a_stalled_rank_of_a_dead_predecessor_is_killed(run: RunDir, orphan: Orphan) -> None:
    process = start(run, "--stall-seconds", "5")
    assert orphan.wait(60) == -signal.SIGKILL
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 0, stderr


def test_a_waiting_launcher_stops_on_request(run: RunDir, orphan: Orphan) -> None:
    process = start(run)
    assert process.stderr
    process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 75
    resume = f"`idxtrain run --run-id {run.selector}` resumes it from its last checkpoint"
    assert stderr == f"idxtrain: train: stopped on request; {resume}\n"
    assert not (run.path / "trained").exists()
    assert orphan.poll() is None


def test_a_launcher_does_not_wait_after_a_predecessor_that_exited_normally(run: RunDir, orphan: Orphan) -> None:
    (run.heartbeats / "launcher.json").unlink()
    process = start(run)
    _, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (0, "")
    assert not (run.heartbeats / "launcher.json").exists()


def test_a_reused_pid_is_another_process(run: RunDir) -> None:
    me = asdict(replace(this_process(), began=this_process().began - 1))
    for name in ("launcher.json", "rank-0.json"):
        (run.heartbeats / name).write_text(json.dumps(me))
    assert predecessor._running(run.heartbeats) == {}


def test_a_process_on_another_machine_runs_as_long_as_its_file_is_fresh(run: RunDir) -> None:
    elsewhere = replace(this_process(), machine="another boot")
    beat = run.heartbeats / "rank-0.json"
    beat.write_text(json.dumps(asdict(elsewhere)))
    assert list(predecessor._running(run.heartbeats).values()) == [elsewhere]
    with pytest.raises(
        InputError, match=r"found stalled process \d+ on .*, expected none; fix: end it there, then run again"
    ):
        predecessor._kill([elsewhere])
    os.utime(beat, (time.time() - 61,) * 2)
    assert predecessor._running(run.heartbeats) == {}


def test_of_two_launchers_the_second_waits_for_the_first_and_its_ranks(run: RunDir, tmp_path: Path) -> None:
    slow = f"import time, pathlib\npathlib.Path({str(tmp_path / 'up')!r}).touch()\ntime.sleep(4)"
    first = subprocess.Popen([*LAUNCHER, "--np", "1", "--run-dir", str(run.path), sys.executable, "-c", slow])
    wait_for((tmp_path / "up").exists)
    second = start(run)
    wait_for((run.path / "trained").exists)
    assert not psutil.pid_exists(first.pid) or first.poll() == 0
    _, stderr = second.communicate(timeout=30)
    which = f"process {first.pid} on {os.uname().nodename}"
    assert stderr == f"train: waiting for an earlier training of this run to stop: {which}\n"
