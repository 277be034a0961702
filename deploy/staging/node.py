"""python -m deploy.staging.node: make a job's copies on this node, and remove them at its end, as a task of an srun.

The first line of stdin is the message (`deploy.staging.message`). Once the environment is unpacked, this prints a line
to stdout. It removes everything when stdin ends, which it does however the job's process ends, or at a signal; but only
once no process runs from there, as a rank that writes a checkpoint may still import. If it is killed itself, the user's
next job on the node removes the folder: see `deploy.slurm.scratch`.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

import psutil

from deploy.slurm.scratch import lease_file, private_folder, scratch_parent
from deploy.staging.message import StageMessage
from deploy.staging.unpack import make_environment
from jobs import stop_signals
from jobs.errors import IdxtrainError
from jobs.exit_codes import exit_codes
from jobs.lease import HeldError, living_owner

READY, FAILED = "ready", "failed"  # what a node prints to stdout
_POLL_SECONDS = 0.1
_LAST_SECONDS = 20.0  # for the job's process after a signal, and for processes that outlive it


def stage(message: StageMessage, scratch: Path, asked: threading.Event, ended: threading.Event) -> None:
    """Make the copies, print READY, and remove them once the job is over. Raises IdxtrainError or OSError.

    `asked`: a signal has asked for the end. `ended`: the job's process has ended.
    """
    staged = message.staged(scratch)

    def is_over() -> bool:
        return asked.is_set() or ended.is_set()

    try:
        with private_folder(scratch, message.name, message.token) as folder:
            if message.archives:
                python = Path(message.python)
                make_environment(staged.environment, python, message.packages, message.archives, is_over)
            if is_over():
                return  # what was unpacked may not be whole
            staged.shards.mkdir(mode=0o700)
            staged.ready_file.touch()
            print(READY, flush=True)
            _wait(is_over)
            _wait(ended.is_set, _LAST_SECONDS)  # a signal to all tasks also asks the ranks, which may read a while yet
            _wait(lambda: not _runs_from(folder), _LAST_SECONDS)
    except HeldError:
        # Another node of this job has the same disk, and what is on it: the token is this job's alone.
        _wait(lambda: staged.ready_file.exists() or is_over() or living_owner(lease_file(staged.folder)) is None)
        if not staged.ready_file.exists():
            if is_over():
                return
            raise IdxtrainError(f"{staged.folder}: found no copy, expected that of another node on this disk") from None
        print(READY, flush=True)
        _wait(is_over)


def _wait(is_over: Callable[[], bool], seconds: float = float("inf")) -> None:
    deadline = time.monotonic() + seconds
    while not is_over() and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)


def _runs_from(folder: Path) -> bool:
    """Return whether a process of this user runs a program in a folder."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, IndexError):
            if process.cmdline()[0].startswith(f"{folder}/"):
                return True
    return False


def main(host: str, stdin: int) -> int:
    """Stage on this node; return the exit code. `stdin`: the descriptor from which to read the message."""
    asked, ended = threading.Event(), threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        asked.set()

    stop_signals.handle(on_signal)
    line = b""
    while not line.endswith(b"\n"):
        read = os.read(stdin, 4096)
        if not read:
            return 0  # the job's process has ended already
        line += read

    def wait_for_end_of_stdin() -> None:
        while os.read(stdin, 4096):
            pass
        ended.set()

    threading.Thread(target=wait_for_end_of_stdin, daemon=True).start()
    try:
        stage(StageMessage.from_line(line.decode()), scratch_parent(os.environ), asked, ended)
        return 0
    except (IdxtrainError, OSError) as error:
        print(f"staging: node {host}: {error}", file=sys.stderr, flush=True)
        print(FAILED, flush=True)
        return IdxtrainError.exit_code


if __name__ == "__main__":
    with exit_codes():
        sys.exit(main(os.environ["SLURMD_NODENAME"], sys.stdin.fileno()))
