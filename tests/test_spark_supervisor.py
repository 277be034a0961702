"""What keeps a daemon of Spark on a node: however it ends, no process and no file is left. A shell is the daemon."""

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
from deploy.spark.message import Order

# Its executor has left its session and its parent, and is deaf to a SIGTERM.
DAEMON = """\
setsid sh -c 'trap "" TERM; (sleep 600 & echo $! > child; wait)' &
while [ ! -s child ]; do sleep 0.05; done
echo "27 INFO Worker: Successfully registered with master spark://x:1"
echo "a word of its own"
echo "spark: ERROR Worker: something" >&2
{then}
"""


def order(then: str) -> Order:
    command = ("sh", "-c", DAEMON.format(then=then))
    return Order(command, "c0ffee", "7", "127.0.0.1", "", network.machine(), cores=1, memory="")


@contextmanager
def keeper(scratch: Path, told: Order) -> Iterator[subprocess.Popen[str]]:
    """A keeper that has been told what to keep."""
    environment = {**os.environ, "SLURMD_NODENAME": "n1", "IDXTRAIN_SCRATCH": str(scratch)}
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.spark.node", "worker", "spark://x:1"],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdin
        process.stdin.write(told.to_line())
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
def test_asked_to_end_it_leaves_nothing(how: str, tmp_path: Path) -> None:
    with keeper(tmp_path, order("sleep 600")) as process:
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


def test_a_daemon_that_ends_by_itself_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    with keeper(tmp_path, order("exit 3")) as process:
        assert process.stdout
        assert process.stdout.readline() == "registered with master\n"
        assert process.stderr
        assert process.wait(30) == 1
        assert process.stdout.read() == "failed\n"
        assert process.stderr.read().splitlines() == [
            "[n1] spark: ERROR Worker: something",
            "idxtrain: node n1: Spark's worker ended with exit code 3; its last words: spark: ERROR Worker: something",
        ]
        assert list(tmp_path.iterdir()) == []


def test_a_node_that_does_not_fit_starts_nothing(tmp_path: Path) -> None:
    with keeper(tmp_path, replace(order("sleep 600"), machine="another")) as process:
        said, why = process.communicate(timeout=30)
        assert (process.returncode, said) == (1, "failed\n")
        assert why.startswith("idxtrain: node n1: listens on the loopback interface (127.0.0.1)")
        assert list(tmp_path.iterdir()) == []


def test_without_its_launcher_it_does_not_even_begin(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deploy.spark.node", "master"],
        env={**os.environ, "SLURMD_NODENAME": "n1", "IDXTRAIN_SCRATCH": str(tmp_path)},
        stdin=subprocess.DEVNULL, capture_output=True, timeout=30,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert list(tmp_path.iterdir()) == []
