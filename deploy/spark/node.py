"""python -m deploy.spark.node master|worker [MASTER]: supervise one Spark daemon, as a task of an srun.

The first line of stdin is its message (`deploy.spark.message`). The supervisor checks its node, makes scratch there and
starts the daemon in it. Once the daemon is ready, it prints a line to stdout: a master's URL.

It ends the daemon with all its descendants, and removes the scratch, when stdin ends, which it does however the
launching process ends; at a signal; or when the daemon ends by itself. If the supervisor itself is killed, the next
job on the node removes the scratch.
"""

import ctypes
import os
import re
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import IO

import psutil

from deploy.slurm import network
from deploy.slurm.scratch import private_folder, scratch_parent
from deploy.spark import properties
from deploy.spark.message import DaemonMessage
from jobs import stop_signals
from jobs.errors import IdxtrainError
from jobs.exit_codes import exit_codes
from jobs.process import PARENT

FAILED = "failed"  # what a supervisor prints to stdout after an error on stderr
STOPPED = "stopped"  # what it prints at a signal, before its daemon ends: Slurm may signal a job's steps alone
_READY = {
    "master": re.compile(r"Starting Spark master at (spark://\S+)"),
    "worker": re.compile("registered with master"),
}
_CLASSES = {"master": "master.Master", "worker": "worker.Worker"}
_POLL_SECONDS = 0.1
_GRACE_SECONDS = 2.0  # for Java to shut down; Slurm's KillWait has to suffice for everything
_PR_SET_CHILD_SUBREAPER = 36  # prctl(2), Linux


class Supervisor:
    """One daemon, from its start to the removal of all that it left."""

    def __init__(self, role: str, host: str, message: DaemonMessage) -> None:
        self._role, self._host, self._message = role, host, message
        self._is_stopping = self._is_signalled = False
        self._last_line = ""

    def request_stop(self, by_signal: bool = False) -> None:
        """Have `run` end the daemon. `by_signal`: print STOPPED first."""
        self._is_signalled |= by_signal
        self._is_stopping = True

    def run(self, master: str) -> None:
        """Run the daemon until a stop is requested; raise IdxtrainError if it ends by itself. `master`: its URL."""
        message = self._message
        address = network.reachable_address(message.interface, message.address, message.machine)
        with private_folder(scratch_parent(os.environ), f"{message.job}-{self._role}-{self._host}") as folder:
            properties.write(folder, properties.cluster_properties(message.secret))
            process = subprocess.Popen(
                [*message.command, *arguments(self._role, message, address, folder, master)],
                cwd=folder,
                env={**os.environ, PARENT: str(os.getpid()), **properties.daemon_environment(folder)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            )
            try:
                self._start_readers(process)
                while process.poll() is None and not self._is_stopping:
                    time.sleep(_POLL_SECONDS)
            finally:
                if self._is_signalled:
                    print(STOPPED, flush=True)
                end_descendants(_GRACE_SECONDS)
        if not self._is_stopping:
            how = f"exited with code {process.returncode}"
            raise IdxtrainError(f"Spark's {self._role} {how}; its last line: {self._last_line or 'none'}")

    def _start_readers(self, process: subprocess.Popen[str]) -> None:
        """Read the daemon's output in threads: print when it is ready, and forward its errors."""

        def read_state(lines: IO[str]) -> None:
            for line in lines:
                match = _READY[self._role].search(line)
                if match:
                    print(match[match.re.groups], flush=True)

        def read_errors(lines: IO[str]) -> None:
            for line in lines:
                if not self._is_stopping and "RECEIVED SIGNAL" not in line:
                    self._last_line = line.strip()
                    print(f"[{self._host}] {self._last_line}", file=sys.stderr, flush=True)

        for read, stream in ((read_state, process.stdout), (read_errors, process.stderr)):
            threading.Thread(target=read, args=(stream,), daemon=True).start()


def arguments(role: str, message: DaemonMessage, address: str, folder: Path, master: str) -> list[str]:
    """Return a daemon's class and arguments; the system chooses its ports. `address`: where it listens."""
    options = [_CLASSES[role], "--host", address, "--port", "0", "--webui-port", "0"]
    if role == "master":
        return options
    cores = message.cores or len(os.sched_getaffinity(0))
    memory = ["--memory", properties.worker_memory(message.memory)] if message.memory else []
    return [*options, "--cores", str(cores), *memory, "--work-dir", str(folder / "work"), master]


def adopt_orphans() -> None:
    """Become the parent of descendants that lose their own, so that all can be found and ended."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_descendants(grace_seconds: float) -> None:
    """End all descendants of this process: terminate them, then kill until none is left."""
    processes = _descendants()
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    psutil.wait_procs(processes, timeout=grace_seconds)
    while processes := _descendants():
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=grace_seconds)


def _descendants() -> list[psutil.Process]:
    processes = psutil.Process().children(recursive=True)
    for process in processes:  # an adopted orphan that has ended waits to be reaped
        with suppress(ChildProcessError, OSError):
            os.waitpid(process.pid, os.WNOHANG)
    return [process for process in processes if _is_alive(process)]


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def main(role: str, host: str, master: str, stdin: int) -> int:
    """Run a supervisor; return the exit code. `stdin`: the descriptor from which to read the message."""
    adopt_orphans()
    line = b""
    while not line.endswith(b"\n"):
        read = os.read(stdin, 4096)
        if not read:
            return 0  # the launching process has ended already
        line += read
    supervisor = Supervisor(role, host, DaemonMessage.from_line(line.decode()))

    def on_signal(number: int, frame: FrameType | None) -> None:
        supervisor.request_stop(by_signal=True)

    stop_signals.handle(on_signal)

    def wait_for_end_of_stdin() -> None:
        while os.read(stdin, 4096):
            pass
        supervisor.request_stop()

    threading.Thread(target=wait_for_end_of_stdin, daemon=True).start()
    try:
        supervisor.run(master)
        return 0
    except (IdxtrainError, OSError) as error:
        # The reason comes before FAILED, which makes the launching process end this srun.
        print(f"idxtrain: node {host}: {error}", file=sys.stderr, flush=True)
        print(FAILED, flush=True)
        return IdxtrainError.exit_code


if __name__ == "__main__":
    with exit_codes():
        sys.exit(main(sys.argv[1], os.environ["SLURMD_NODENAME"], "".join(sys.argv[2:]), sys.stdin.fileno()))
