"""What a job copies to its nodes before its stage starts: an srun of one task per node, which lives as long as the job.

Copies are an optimization. Where they cannot be made, the job prints one line and runs from the shared file system.
"""

import queue
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from deploy.slurm import commands
from deploy.slurm.attached import end_attached
from deploy.slurm.queue import node_names
from deploy.slurm.scratch import scratch_parent
from deploy.slurm.site import Staged
from deploy.staging import archive
from deploy.staging.message import StageMessage
from deploy.staging.node import READY
from jobs.errors import InputError
from jobs.logs import log
from jobs.python import module_command
from jobs.shard_copies import FOLDER

_POLL_SECONDS = 0.1
_READY_SECONDS = 600.0  # gigabytes for each node from a busy file system
_END_SECONDS = 30.0  # see `deploy.staging.node`: the last processes end, then files are removed


@dataclass(frozen=True)
class Placement:
    """Where a job's processes run from: the Python that they start with, and variables that they get."""

    python: str = sys.executable
    environment: Mapping[str, str] = field(default_factory=dict)


def stage_step(nodes: int) -> tuple[str, ...]:
    """Return the srun that stages on each of a job's nodes."""
    return (*commands.one_task_per_node(nodes, "--input=all"), *module_command("deploy.staging.node"))


@contextmanager
def staged(what: Sequence[Staged], environments: Path, environment: Mapping[str, str]) -> Iterator[Placement]:
    """Copy something to each node of this job; remove it at the end. Yield where to run from.

    `what`: as the site's `stage` lists it. `environments`: the folder of the environment's tar files, which all nodes
    share. `environment`: this job's.
    """
    if not what:
        yield Placement()
        return
    try:
        message = _message(what, environments, environment["SLURM_JOB_ID"])
    except (InputError, OSError) as error:
        log.warning("staging: %s; running from the shared file system", error)
        yield Placement()
        return
    nodes = len(node_names(environment["SLURM_JOB_NODELIST"]))
    # Without TMPDIR: Slurm would make this process's folder on each node, and leave it there.
    inherited = {name: value for name, value in environment.items() if name != "TMPDIR"}
    step = NodeStep(stage_step(nodes), inherited, message.to_line())
    try:
        begin = time.monotonic()
        if step.are_ready(nodes):
            seconds = time.monotonic() - begin
            log.info("staging: %s on %d nodes, in %.1f s", " and ".join(what), nodes, seconds)
            yield _placement(what, message, scratch_parent(environment))
        else:
            step.end()
            damaged = ", ".join(archive.remove_damaged(message.archives))
            why = (
                f"removed {damaged}, which was damaged: the next job packs it again" if damaged else "not on every node"
            )
            log.warning("staging: %s; running from the shared file system", why)
            yield Placement()
    finally:
        step.end()


def _message(what: Sequence[Staged], environments: Path, job: str) -> StageMessage:
    packages = archive.packages_folder()
    return StageMessage(
        job=job,
        token=secrets.token_hex(8),
        python=str(Path(sys.executable).resolve()),
        packages=str(packages.relative_to(sys.prefix)),
        archives=archive.archives(environments, packages) if "environment" in what else (),
    )


def _placement(what: Sequence[Staged], message: StageMessage, scratch: Path) -> Placement:
    folder = message.staged(scratch)
    python = str(folder.python) if message.archives else sys.executable
    return Placement(python, {FOLDER: str(folder.shards)} if "shards" in what else {})


class NodeStep:
    """An srun of one task per node, each of which lives until its stdin ends. See `deploy.staging.node`."""

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str], message: str) -> None:
        # In a group of its own: signals to the job are for its process to handle.
        self._srun = subprocess.Popen(
            argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read_stdout, daemon=True).start()
        with suppress(BrokenPipeError):  # srun ended, and printed why
            assert self._srun.stdin  # noqa: S101 (it is a pipe)
            self._srun.stdin.write(message)
            self._srun.stdin.flush()

    def _read_stdout(self) -> None:
        for line in self._srun.stdout or ():
            self._lines.put(line.strip())

    def are_ready(self, tasks: int) -> bool:
        """Wait until each task has printed READY; return whether all have, which is False once one has failed."""
        deadline, ready = time.monotonic() + _READY_SECONDS, 0
        while ready < tasks:
            try:
                if self._lines.get(timeout=_POLL_SECONDS) != READY:
                    return False
                ready += 1
            except queue.Empty:
                if time.monotonic() > deadline or self._srun.poll() is not None:
                    return False
        return True

    def end(self) -> None:
        """End the tasks: each removes its copies when its stdin ends."""
        end_attached(self._srun, _END_SECONDS)
