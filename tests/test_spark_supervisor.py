"""The supervisor of a Spark daemon: however it ends, no process and no file is left. A shell plays the daemon."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from deploy.slurm import network
from deploy.spark import cluster
from deploy.spark.cluster import Daemons
from deploy.spark.message import DaemonMessage
from jobs import stop_signals
from jobs.errors import IdxtrainError, ResumableError
from jobs.memory import OutOfMemory

# Its executor has left its session and its parent, and ignores SIGTERM.
DAEMON = """\
setsid sh -c 'trap "" TERM; (sleep 600 & echo $! > child; wait)' &
while [ ! -s child ]; do sleep 0.05; done
echo "27 INFO Worker: Successfully registered with master spark://x:1"
echo "a word of its own"
echo "spark: ERROR Worker: something" >&2
{then}
"""


def message(then: str) -> DaemonMessage:
    command = ("sh", "-c", DAEMON.format(then=then))
    return DaemonMessage(
        command=command,
        secret="c0ffee",  # noqa: S106 (made up)
        job="7",
        address="127.0.0.1",
        interface="",
        machine=network.machine(),
        cores=1,
        memory="",
    )


@contextmanager
def supervisor(scratch: Path, sent: DaemonMessage) -> Iterator[subprocess.Popen[str]]:
    """A supervisor that has got its message."""
    environment = {**os.environ, "SLURMD_NODENAME": "n1", "IDXTRAIN_SCRATCH": str(scratch)}
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.spark.node", "worker", "spark://x:1"],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdin
        process.stdin.write(sent.to_line())
        process.stdin.flush()
        yield process
    finally:
        process.kill()
        process.wait()


def executor(scratch: Path) -> psutil.Process:
    (folder,) = scratch.glob("idxtrain-job-7-worker-n1-*")
    assert folder.stat().st_mode & 0o777 == 0o700
    return psutil.Process(int((folder / "child").read_text(encoding="utf-8")))


@pytest.mark.parametrize("how", ["stdin", "SIGTERM", "SIGUSR1"])
def test_a_stopped_supervisor_leaves_no_process_and_no_file(how: str, tmp_path: Path) -> None:
    with supervisor(tmp_path, message("sleep 600")) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "registered with master\n"
        child = executor(tmp_path)
        if how == "stdin":  # as when the launcher is killed
            process.stdin.close()
        else:
            process.send_signal(getattr(signal, how))
        assert process.wait(30) == 0
        assert not child.is_running()
        assert list(tmp_path.iterdir()) == []


def test_a_daemon_that_ends_by_itself_is_reported_and_leaves_nothing(tmp_path: Path) -> None:
    with supervisor(tmp_path, message("exit 3")) as process:
        assert process.stdout
        assert process.stdout.readline() == "registered with master\n"
        assert process.stderr
        assert process.wait(30) == 1
        assert process.stdout.read() == "failed\n"
        assert process.stderr.read().splitlines() == [
            "[n1] spark: ERROR Worker: something",
            "idxtrain: node n1: Spark's worker exited with code 3; its last line: spark: ERROR Worker: something",
        ]
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("then", ["sleep 600", "exit 1"])
def test_sigterm_to_a_daemons_supervisor_stops_prepare_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    """Slurm sends it to a job's steps, before it preempts the job: prepare itself gets none, but loses its Spark."""
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    monkeypatch.setenv("IDXTRAIN_SCRATCH", str(tmp_path))
    waits = f"while [ -e {tmp_path}/idxtrain-job-* ]; do sleep 0.05; done; {then}"
    with Daemons((), "worker", 1, message("sleep 600"), "spark://x:1") as daemons:
        daemons.wait_until_ready(stop_signals.Requests())
        (supervisor,) = [each for each in psutil.Process().children() if "deploy.spark.node" in each.cmdline()]
        with subprocess.Popen(["sh", "-c", waits]) as prepare:
            supervisor.terminate()
            with pytest.raises(ResumableError, match=r"^prepare: stopped on request$"):
                cluster._wait(prepare, [daemons], stop_signals.Requests(), OutOfMemory())
        with pytest.raises(ResumableError):
            daemons.wait_until_ready(stop_signals.Requests())


def test_the_end_of_a_daemon_without_a_signal_fails_prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    monkeypatch.setenv("IDXTRAIN_SCRATCH", str(tmp_path))
    worker = Daemons((), "worker", 1, message("exit 3"), "spark://x:1")
    lost = pytest.raises(IdxtrainError, match="prepare: Spark ended before prepare did")
    with worker, subprocess.Popen(["sleep", "600"]) as prepare, lost:
        cluster._wait(prepare, [worker], stop_signals.Requests(), OutOfMemory())


def test_an_unsuitable_node_starts_no_daemon(tmp_path: Path) -> None:
    with supervisor(tmp_path, replace(message("sleep 600"), machine="another")) as process:
        stdout, stderr = process.communicate(timeout=30)
        assert (process.returncode, stdout) == (1, "failed\n")
        assert stderr.startswith("idxtrain: node n1: interface: found loopback (127.0.0.1), expected one that")
        assert list(tmp_path.iterdir()) == []


def test_a_supervisor_without_stdin_starts_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deploy.spark.node", "master"],
        env={**os.environ, "SLURMD_NODENAME": "n1", "IDXTRAIN_SCRATCH": str(tmp_path)},
        stdin=subprocess.DEVNULL, capture_output=True, timeout=30,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert list(tmp_path.iterdir()) == []
