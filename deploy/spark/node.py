"""python -m deploy.spark.node master|worker [MASTER]: keep one daemon of Spark, as a task of the launcher's srun.

Its first line of stdin is an order (`deploy.spark.message`). It checks its node, makes scratch there, starts the daemon
in it, and writes a line to stdout once that is ready: of a master, its URL. It ends the daemon, all processes that
come of it, and the scratch when its stdin ends, which is when the launcher is gone, however it went; at a signal; or
when the daemon ends by itself. What is left where it is itself killed, the next job's process on the node removes.
"""

import ctypes
import os
import re
import signal
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
from deploy.slurm.scratch import private_folder
from deploy.slurm.script import SCRATCH
from deploy.spark import properties
from deploy.spark.message import Order, take
from jobs.errors import IdxtrainError
from jobs.process import PARENT

FAILED = "failed"  # what a keeper says on stdout that has said on stderr why
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_READY = {
    "master": re.compile(r"Starting Spark master at (spark://\S+)"),
    "worker": re.compile("registered with master"),
}
_CLASSES = {"master": "master.Master", "worker": "worker.Worker"}
_POLL_SECONDS = 0.1
_GRACE_SECONDS = 2.0  # for Java to end in its own way; Slurm's KillWait has to suffice for all
_PR_SET_CHILD_SUBREAPER = 36  # prctl(2), Linux


class Keeper:
    """One daemon, from its start to the removal of all that came of it."""

    def __init__(self, role: str, host: str, order: Order) -> None:
        self._role, self._host, self._order = role, host, order
        self._asked = False
        self._last_words = ""

    def ask(self) -> None:
        """Have the daemon ended."""
        self._asked = True

    def run(self, master: str) -> None:
        """Keep the daemon until it is to end; raise IdxtrainError where it ends by itself. `master`: its URL."""
        here = address(self._order)
        parent = Path(os.environ.get(SCRATCH) or "/tmp")  # noqa: S108
        with private_folder(parent, f"{self._order.job}-{self._role}-{self._host}") as folder:
            properties.write(folder, properties.of_all(self._order.secret))
            environment = {**os.environ, PARENT: str(os.getpid()), **properties.daemon_environment(folder)}
            argv = [*self._order.command, *arguments(self._role, self._order, here, folder, master)]
            process = subprocess.Popen(
                argv,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            )
            try:
                self._hear(process)
                while process.poll() is None and not self._asked:
                    time.sleep(_POLL_SECONDS)
            finally:
                end_family(_GRACE_SECONDS)
        if not self._asked:
            how = f"ended with exit code {process.returncode}"
            raise IdxtrainError(f"Spark's {self._role} {how}; its last words: {self._last_words or 'none'}")

    def _hear(self, process: subprocess.Popen[str]) -> None:
        """Read in threads what the daemon says."""

        def state(lines: IO[str]) -> None:
            for line in lines:
                found = _READY[self._role].search(line)
                if found:
                    print(found[found.re.groups], flush=True)

        def errors(lines: IO[str]) -> None:
            for line in lines:
                if not self._asked and "RECEIVED SIGNAL" not in line:
                    self._last_words = line.strip()
                    print(f"[{self._host}] {self._last_words}", file=sys.stderr, flush=True)

        for hear, stream in ((state, process.stdout), (errors, process.stderr)):
            threading.Thread(target=hear, args=(stream,), daemon=True).start()


def address(order: Order) -> str:
    """Return where to listen on this node; raise IdxtrainError where the other nodes could not reach that."""
    known = network.addresses()
    found = (
        network.address_of(order.interface, known) if order.interface else network.own_address_towards(order.address)
    )
    if network.is_loopback(found) and network.machine() != order.machine:
        raise IdxtrainError(
            f"listens on the loopback interface ({found}), which other nodes cannot reach; set the site's interface"
        )
    return found


def arguments(role: str, order: Order, here: str, folder: Path, master: str) -> list[str]:
    """Return a daemon's class and arguments. Ports are those that the system gives."""
    options = [_CLASSES[role], "--host", here, "--port", "0", "--webui-port", "0"]
    if role == "master":
        return options
    cores = order.cores or len(os.sched_getaffinity(0))
    memory = ["--memory", properties.worker_memory(order.memory)] if order.memory else []
    return [*options, "--cores", str(cores), *memory, "--work-dir", str(folder / "work"), master]


def adopt_orphans() -> None:
    """Become the parent of whoever among the descendants loses its own: none gets out of sight."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_family(grace_seconds: float) -> None:
    """End all descendants of this process: asked first, then by force, until there is none."""
    family = _family()
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    psutil.wait_procs(family, timeout=grace_seconds)
    while family := _family():
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=grace_seconds)


def _family() -> list[psutil.Process]:
    found = psutil.Process().children(recursive=True)
    for process in found:  # an orphan that was adopted, and has ended, waits to be taken down
        with suppress(ChildProcessError, OSError):
            os.waitpid(process.pid, os.WNOHANG)
    return [process for process in found if _is_alive(process)]


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def main(role: str, host: str, master: str, told: int) -> int:
    """Be a keeper; return the exit code. `told`: the descriptor that the order comes through."""
    adopt_orphans()
    line = b""
    while not line.endswith(b"\n"):
        read = os.read(told, 4096)
        if not read:
            return 0  # the launcher is gone already
        line += read
    keeper = Keeper(role, host, take(line.decode()))

    def ask(number: int, frame: FrameType | None) -> None:
        keeper.ask()

    for number in _SIGNALS:
        signal.signal(number, ask)

    def listen() -> None:
        while os.read(told, 4096):  # nothing more is said: this waits for the end
            pass
        keeper.ask()

    threading.Thread(target=listen, daemon=True).start()
    try:
        keeper.run(master)
        return 0
    except (IdxtrainError, OSError) as error:
        print(f"idxtrain: node {host}: {error}", file=sys.stderr, flush=True)
        print(FAILED, flush=True)
        return IdxtrainError.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], os.environ["SLURMD_NODENAME"], "".join(sys.argv[2:]), sys.stdin.fileno()))
