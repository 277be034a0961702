"""python -m deploy.spark.cluster --site FILE --run-dir DIR COMMAND…: run a command with a Spark of its own.

Within a Slurm job: a master on its first node and a worker on each, by two sruns, none of which outlives the command.
The daemons, the command's own Spark and the executors prove to each other that they know a secret of this cluster, and
talk encrypted, over the network between the nodes. The command finds them by SPARK_CONF_DIR and the master's URL.
"""

import argparse
import os
import queue
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from types import FrameType, TracebackType

from deploy.slurm import commands, network
from deploy.slurm import queue as slurm
from deploy.slurm.site import Site, validate
from deploy.spark import properties
from deploy.spark.message import Order
from deploy.spark.node import FAILED
from jobs.errors import IdxtrainError, ResumableError
from jobs.files import read_object
from jobs.memory import OutOfMemory
from jobs.prepare.config import MASTER
from jobs.process import PARENT, die_with_parent
from jobs.python import module_command

_POLL_SECONDS = 0.1
_READY_SECONDS = 180.0  # Java from a cold network file system, on all nodes at once
_TOLD_SECONDS = 2.0  # Slurm tells all of a job's processes to end, the command too
_END_SECONDS = 20.0


class Keepers(AbstractContextManager["Keepers"]):
    """An srun whose tasks keep one daemon of Spark each: see `deploy.spark.node`."""

    def __init__(self, step: Sequence[str], role: str, tasks: int, order: Order, master: str = "") -> None:
        self._role, self._tasks = role, tasks
        argv = [*step, *module_command("deploy.spark.node", role, *filter(None, [master]))]
        # In a group of its own: a signal to the job's process is for the launcher to understand.
        self._srun = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sys.stderr, text=True, process_group=0
        )
        self._said: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._hear, daemon=True)
        self._reader.start()
        with suppress(BrokenPipeError):  # srun ended, and has said why
            self._write(order.to_line())

    def _write(self, line: str) -> None:
        if self._srun.stdin:
            self._srun.stdin.write(line)
            self._srun.stdin.flush()

    def _hear(self) -> None:
        for line in self._srun.stdout or ():
            self._said.put(line.strip())

    def ended(self) -> bool:
        """Tell whether no daemon is kept any more."""
        return self._srun.poll() is not None

    def ready(self, asked: "Signals") -> list[str]:
        """Wait until all daemons are ready; return what they said. Raises IdxtrainError where that does not come."""
        deadline = time.monotonic() + _READY_SECONDS
        found: list[str] = []
        while len(found) < self._tasks or FAILED in found:
            if asked.count:
                raise ResumableError("prepare: stopped as asked")
            late = time.monotonic() > deadline
            if late or FAILED in found or (self.ended() and self._said.empty()):
                up = len(found) - found.count(FAILED)
                how = f" in {_READY_SECONDS:g} s" if late else ""
                raise IdxtrainError(
                    f"prepare: {up} of {self._tasks} Spark {self._role}s came up{how}; the lines above may say why, "
                    "else see whether the nodes reach each other over the site's interface"
                )
            with suppress(queue.Empty):
                found.append(self._said.get(timeout=_POLL_SECONDS))
        return found

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the daemons: they last as long as their keepers' stdin."""
        with suppress(BrokenPipeError):
            if self._srun.stdin:
                self._srun.stdin.close()
        for number in (None, signal.SIGTERM, signal.SIGKILL):
            if number and self._srun.poll() is None:
                self._srun.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                self._srun.wait(_END_SECONDS)
                break


class Signals:
    """How often this process was asked to stop."""

    def __init__(self) -> None:
        self.count = 0
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.count += 1


def run(site: Site, run_dir: Path, command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command with a Spark of its own; return its exit code. Raises IdxtrainError where Spark is not there."""
    asked = Signals()
    nodes = slurm.node_names(environment["SLURM_JOB_NODELIST"])
    order = order_for(site, run_dir, nodes, environment["SLURM_JOB_ID"])
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="spark-")))
        master = stack.enter_context(Keepers(commands.spark_step(site, 1), "master", 1, order))
        (url,) = master.ready(asked)
        workers = stack.enter_context(Keepers(commands.spark_step(site, len(nodes)), "worker", len(nodes), order, url))
        workers.ready(asked)
        print(
            f"prepare: Spark's master and {len(nodes)} workers are up: {', '.join(nodes)}", file=sys.stderr, flush=True
        )
        properties.write(folder, properties.of_driver(order.secret, order.address))
        further = {
            "SPARK_CONF_DIR": str(folder),
            "SPARK_LOCAL_DIRS": str(folder),
            MASTER: url,
            **properties.bound(folder),
        }
        memory = OutOfMemory()
        process = subprocess.Popen(
            command,
            env={**environment, **further, PARENT: str(os.getpid())},
            stdin=subprocess.DEVNULL,
            process_group=0,
        )
        return _wait(process, (master, workers), asked, memory)


def order_for(site: Site, run_dir: Path, nodes: Sequence[str], job: str) -> Order:
    """Return what the keepers are told. Raises InputError where the site's interface is not there."""
    return Order(
        command=commands.inside(site, sys.executable, run_dir, "deploy.spark.daemon"),
        secret=secrets.token_hex(32),
        job=job,
        address=network.own_address_among(nodes, site.interface),
        interface=(site.interface or "") if len(nodes) > 1 else "",
        machine=network.machine(),
        cores=site.prepare.cpus or 0,
        memory=site.prepare.memory or "",
    )


def _wait(process: subprocess.Popen[bytes], kept: Sequence[Keepers], asked: Signals, memory: OutOfMemory) -> int:
    """Wait for the command's end; ask it to stop when this process is asked, or Spark is gone.

    Return its exit code; raise IdxtrainError, ResumableError where it was asked, for one that could not say why.
    """
    lost = False
    while process.poll() is None and not asked.count and not lost:
        lost = any(keepers.ended() for keepers in kept)
        time.sleep(_POLL_SECONDS)
    for seconds, end in ((0.0 if lost else _TOLD_SECONDS, process.terminate), (_END_SECONDS, process.kill)):
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            break
        end()
    process.wait()
    if lost:
        raise IdxtrainError("prepare: Spark ended before its work did; see the lines above for which daemon, and why")
    if process.returncode < 0 and asked.count:
        raise ResumableError("prepare: stopped as asked")
    if process.returncode < 0:
        number = -process.returncode
        raise IdxtrainError(f"prepare: was killed by {signal.Signals(number).name}{memory.likely_cause(number)}")
    return process.returncode


def main(arguments: Sequence[str]) -> int:
    """Parse, run; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.spark.cluster")
    parser.add_argument("--site", type=Path, required=True, help="the site's JSON")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args(arguments)
    site = validate(read_object(options.site, "submit the run again"), str(options.site))
    return run(site, options.run_dir, options.command, os.environ)


if __name__ == "__main__":
    die_with_parent()
    try:
        sys.exit(main(sys.argv[1:]))
    except (IdxtrainError, OSError) as error:
        print(f"idxtrain: {error}", file=sys.stderr)
        sys.exit(error.exit_code if isinstance(error, IdxtrainError) else IdxtrainError.exit_code)
