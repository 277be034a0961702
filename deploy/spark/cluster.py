"""python -m deploy.spark.cluster --site FILE --run-dir DIR COMMAND…: run a command with a Spark cluster of its own.

Within a Slurm job: a master on its first node and a worker on each, under two sruns, none of which outlives the
command. The daemons, the command's own Spark and the executors prove to each other that they know this cluster's
secret, and encrypt what they send between the nodes. SPARK_CONF_DIR and the master's URL lead the command to them.
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
from deploy.slurm.attached import end_attached
from deploy.slurm.queue import node_names
from deploy.slurm.site import Site, validate
from deploy.spark import properties
from deploy.spark.message import DaemonMessage
from deploy.spark.node import FAILED, STOPPED
from jobs import stop_signals
from jobs.errors import IdxtrainError, ResumableError
from jobs.exit_codes import exit_codes
from jobs.files import read_object
from jobs.memory import OutOfMemory
from jobs.prepare.config import MASTER
from jobs.process import PARENT, die_with_parent
from jobs.python import module_command

_POLL_SECONDS = 0.1
_READY_SECONDS = 180.0  # Java from a cold network file system, on all nodes at once
_OWN_STOP_SECONDS = 2.0  # Slurm signals all of a job's processes, so the command may be stopping already
_END_SECONDS = 20.0
_TERMINATED = 128 + signal.SIGTERM  # srun's exit code for a task that was still starting
_READ_SECONDS = 1.0  # for what the tasks of an srun printed last


class Daemons(AbstractContextManager["Daemons"]):
    """The Spark daemons of one role: an srun whose tasks supervise one daemon each. See `deploy.spark.node`."""

    def __init__(self, step: Sequence[str], role: str, tasks: int, message: DaemonMessage, master: str = "") -> None:
        self._role, self._tasks = role, tasks
        argv = [*step, *module_command("deploy.spark.node", role, *filter(None, [master]))]
        # In a group of its own: signals to the job are for this process to handle.
        self._srun = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sys.stderr, text=True, process_group=0
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._stopped = threading.Event()
        self._reader = threading.Thread(target=self._read_stdout, daemon=True)
        self._reader.start()
        with suppress(BrokenPipeError):  # srun ended, and printed why
            self._write(message.to_line())

    def _write(self, line: str) -> None:
        if self._srun.stdin:
            self._srun.stdin.write(line)
            self._srun.stdin.flush()

    def _read_stdout(self) -> None:
        for line in self._srun.stdout or ():
            if line.strip() == STOPPED:
                self._stopped.set()
            else:
                self._lines.put(line.strip())

    def ended(self) -> bool:
        """Return whether the srun has ended, and with it all daemons."""
        if self._srun.poll() is None:
            return False
        self._reader.join(_READ_SECONDS)
        return True

    def stopped(self) -> bool:
        """Return whether a signal to the srun's step asked for an end: Slurm then ends the whole job soon."""
        return self._stopped.is_set() or self._srun.poll() == _TERMINATED

    def wait_until_ready(self, requests: stop_signals.Requests) -> list[str]:
        """Wait until all daemons are ready; return the line that each supervisor printed.

        Raises IdxtrainError if one fails or is late, ResumableError at a request to stop.
        """
        deadline = time.monotonic() + _READY_SECONDS
        lines: list[str] = []
        while len(lines) < self._tasks or FAILED in lines:
            is_late, has_ended = time.monotonic() > deadline, self.ended()
            if requests.count or self.stopped():
                raise ResumableError("prepare: stopped on request")
            if is_late or FAILED in lines or (has_ended and self._lines.empty()):
                ready = len(lines) - lines.count(FAILED)
                limit = f" in {_READY_SECONDS:g} s" if is_late else ""
                raise IdxtrainError(
                    f"prepare: found {ready} of {self._tasks} Spark {self._role}s ready{limit}, expected all; "
                    "fix: see the lines above, or check that the nodes reach each other over the site's interface"
                )
            with suppress(queue.Empty):
                lines.append(self._lines.get(timeout=_POLL_SECONDS))
        return lines

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the daemons: a supervisor ends its daemon when its stdin is closed."""
        end_attached(self._srun, _END_SECONDS)


def run(site: Site, run_dir: Path, command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command with a Spark cluster of its own; return its exit code.

    Raises IdxtrainError if Spark does not start or ends early, ResumableError at a request to stop.
    """
    requests = _handle_stop_signals()
    nodes = node_names(environment["SLURM_JOB_NODELIST"])
    message = daemon_message(site, run_dir, nodes, environment["SLURM_JOB_ID"])
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="spark-")))
        master = stack.enter_context(Daemons(commands.spark_step(site, 1), "master", 1, message))
        (url,) = master.wait_until_ready(requests)
        step = commands.spark_step(site, len(nodes))
        workers = stack.enter_context(Daemons(step, "worker", len(nodes), message, url))
        workers.wait_until_ready(requests)
        print(
            f"prepare: Spark's master and {len(nodes)} workers are up: {', '.join(nodes)}", file=sys.stderr, flush=True
        )
        properties.write(folder, properties.driver_properties(message.secret, message.address))
        own = {
            "SPARK_CONF_DIR": str(folder),
            "SPARK_LOCAL_DIRS": str(folder),
            MASTER: url,
            PARENT: str(os.getpid()),
            **properties.apptainer_bind(folder),
        }
        memory = OutOfMemory()
        process = subprocess.Popen(command, env={**environment, **own}, stdin=subprocess.DEVNULL, process_group=0)
        return _wait(process, (master, workers), requests, memory)


def _handle_stop_signals() -> stop_signals.Requests:
    requests = stop_signals.Requests()

    def on_signal(number: int, frame: FrameType | None) -> None:
        requests.note()

    stop_signals.handle(on_signal)
    return requests


def daemon_message(site: Site, run_dir: Path, nodes: Sequence[str], job: str) -> DaemonMessage:
    """Return the message to all supervisors; raise InputError if this node lacks the site's interface."""
    return DaemonMessage(
        command=commands.site_command(site, sys.executable, run_dir, "deploy.spark.daemon"),
        secret=secrets.token_hex(32),
        job=job,
        address=network.own_address_among(nodes, site.interface),
        interface=(site.interface or "") if len(nodes) > 1 else "",
        machine=network.machine(),
        cores=site.prepare.cpus or 0,
        memory=site.prepare.memory or "",
    )


def _wait(
    process: subprocess.Popen[bytes], daemons: Sequence[Daemons], requests: stop_signals.Requests, memory: OutOfMemory
) -> int:
    """Wait until the command has ended; stop it at a request to stop, of which the daemons may be the first to know.

    Return its exit code. Raises IdxtrainError if the daemons ended first or a signal killed the command, but
    ResumableError if that was on request.
    """
    is_lost = False
    while process.poll() is None and not requests.count and not is_lost:
        is_lost = any(each.ended() or each.stopped() for each in daemons)
        time.sleep(_POLL_SECONDS)
    for seconds, end in ((0.0 if is_lost else _OWN_STOP_SECONDS, process.terminate), (_END_SECONDS, process.kill)):
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            break
        end()
    process.wait()
    if any(each.stopped() for each in daemons):
        if process.returncode in (0, ResumableError.exit_code):
            return process.returncode
        raise ResumableError("prepare: stopped on request")  # however the command ended without Spark
    if is_lost:
        raise IdxtrainError("prepare: Spark ended before prepare did; see the lines above for which daemon, and why")
    if process.returncode < 0 and requests.count:
        raise ResumableError("prepare: stopped on request")
    if process.returncode < 0:
        number = -process.returncode
        raise IdxtrainError(f"prepare: was killed by {signal.Signals(number).name}{memory.likely_cause(number)}")
    return process.returncode


def main(arguments: Sequence[str]) -> int:
    """Parse the command line and run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.spark.cluster")
    parser.add_argument("--site", type=Path, required=True, help="site as JSON")
    parser.add_argument("--run-dir", type=Path, required=True, help="run folder")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="argv to run")
    options = parser.parse_args(arguments)
    site = validate(read_object(options.site, "submit the run again"), str(options.site))
    return run(site, options.run_dir, options.command, os.environ)


if __name__ == "__main__":
    die_with_parent()
    with exit_codes():
        sys.exit(main(sys.argv[1:]))
