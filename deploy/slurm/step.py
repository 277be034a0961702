"""The ranks of one attempt as one srun in an allocation: started, watched, ended. See `deploy.launcher.ranks`.

How ranks end comes through srun's stderr, so that watching them costs the shared file system nothing: what the tasks
report of themselves (`deploy.slurm.task`), and where a task could not, what srun says of it.
"""

import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from deploy.launcher.rendezvous import Rendezvous
from deploy.slurm import commands, network, queue
from deploy.slurm.message import StartMessage
from deploy.slurm.rank_id import ranks_per_host
from deploy.slurm.site import Site
from jobs.errors import IdxtrainError
from jobs.python import module_command

_FIRST_PORT, _PORTS, _TRIES = 20000, 10000, 100  # the rendezvous server's: each job begins at another, then tries on
_LATE_SECONDS = 5.0  # a task's own report, which says more, may come after srun's
_END_SECONDS = 20.0
# srun's lines. "srun: error: n2: tasks 2-3: Exited with exit code 2", or "Killed", "Terminated", "Out Of Memory" …
_TASK_ENDED = re.compile(r"srun: error: (\S+): tasks? ([\d,-]+): (.*)")
_CAUSE_ON_NODE = re.compile(r"slurmstepd-(\S+): error: ")
# A launch may also fail for what the site asks for, such as its CPU binding: that is no lost node.
_NODE_LOST = re.compile(
    r"srun: error: (?:Node failure on (?P<failed>\S+)|Task launch for \S+ failed on node (?P<silent>[\w.-]+): "
    r"(?:Communication connection failure|Connection (?:refused|timed out)|No route to host|.*[Tt]imed out).*)"
)
_CAUSE = re.compile(r"srun: (?:error|fatal): |slurmstepd")


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """The site and nodes of a job. `job`: its ID. `folder`: shared by the nodes, in the run folder."""

    site: Site
    job: int
    nodes: tuple[str, ...]
    folder: Path

    def start(self, command: Sequence[str], ranks: int, environment: Mapping[str, str]) -> "StepRanks":
        """Start N ranks of a command; raise OSError if that fails here."""
        counts = ranks_per_host(self.nodes, self.site.train.ranks_per_node, ranks)
        address = network.own_address_among(list(counts), self.site.interface)
        first = _FIRST_PORT + self.job * 13 % _PORTS  # 13: jobs with adjacent IDs do not try the same second port
        rendezvous = Rendezvous(counts, address, [*range(first, first + _TRIES), 0]) if ranks > 1 else None
        message = StartMessage(
            folder=str(self.folder),
            token=secrets.token_hex(8),
            ranks=ranks,
            address=address,
            port=rendezvous.port if rendezvous else 0,
            interface=(self.site.interface or "") if len(counts) > 1 else "",
            machine=network.machine(),
            gpus=self.site.train.gpus_per_node,
            cpus=self.site.train.cpus or 0,
            key=rendezvous.key if rendezvous else "",
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        message.attempt_file.touch()
        argv = [*commands.rank_step(self.site, ranks), *module_command("deploy.slurm.task", *command)]
        # Without TMPDIR: Slurm would make the launcher's folder on each node, and leave it there.
        inherited = {name: value for name, value in environment.items() if name != "TMPDIR"}
        return StepRanks(argv, message, counts, inherited | message.environment(), rendezvous)


def allocation(site: Site, folder: Path, environment: Mapping[str, str]) -> Allocation:
    """Return the allocation that this process runs in; raise KeyError if it runs in none."""
    nodes = tuple(queue.node_names(environment["SLURM_JOB_NODELIST"]))
    return Allocation(site=site, job=int(environment["SLURM_JOB_ID"]), nodes=nodes, folder=folder)


@dataclass(frozen=True)
class RankEnd:
    """How a rank ended: its exit code, negative for a signal, the last line on its stderr, and when that was seen."""

    code: int
    last_line: str
    at: float = field(default_factory=time.monotonic)


class StepRanks:
    """The ranks of one srun. See `deploy.launcher.ranks.Ranks`."""

    peer_loss_seconds = 20.0  # only the end of srun shows that a rank was killed together with its task

    def __init__(
        self,
        argv: Sequence[str],
        message: StartMessage,
        ranks_per_host: Mapping[str, int],
        environment: Mapping[str, str],
        rendezvous: Rendezvous | None,
    ) -> None:
        self._message, self._rendezvous = message, rendezvous
        self._hosts = [host for host, count in ranks_per_host.items() for _ in range(count)]
        self._ends: dict[int, RankEnd] = {}
        self._seen_by_srun: dict[int, RankEnd] = {}  # ends that no report has confirmed yet
        self._lost_nodes: set[str] = set()
        self._causes: dict[str, str] = {}  # by node: the first line of its slurmstepd
        self._srun_line = ""
        self._srun_ended_at: float | None = None
        # In a group of its own: signals to the job are for the launcher to pass on.
        self._srun = subprocess.Popen(
            argv, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, process_group=0
        )
        self._reader = threading.Thread(target=self._forward, args=(self._srun.stderr or (),), daemon=True)
        self._reader.start()

    def _forward(self, lines: Iterable[bytes]) -> None:
        """Print what the tasks and srun write, but not the tasks' reports. The tasks have prefixed their lines."""
        for line in lines:
            text = line.decode(errors="replace").rstrip("\n")
            facts = self._message.read_report(text)
            if not facts:  # none, or torn
                self._note(text)
                print(text, file=sys.stderr, flush=True)
            elif "address" in facts and self._rendezvous:
                self._rendezvous.admit(facts["rank"], str(facts["address"]))
            elif "code" in facts:
                self._ends[facts["rank"]] = RankEnd(int(facts["code"]), str(facts["last_line"]))

    def _note(self, line: str) -> None:
        """Remember what srun says of a task or a node."""
        if ended := _TASK_ENDED.fullmatch(line):
            # A task of ours exits with 0. This one never ran, e.g. without Python there; or it was killed.
            codes = {"Exited": IdxtrainError.exit_code, "Terminated": -signal.SIGTERM}
            code = codes.get(ended[3].partition(" ")[0], -signal.SIGKILL)
            for rank in _numbers(ended[2]):
                self._seen_by_srun.setdefault(rank, RankEnd(code, self._causes.get(ended[1], line)))
        elif cause := _CAUSE_ON_NODE.match(line):
            self._causes.setdefault(cause[1], line)
        elif lost := _NODE_LOST.match(line):
            self._lost_nodes.update(queue.node_names(lost["failed"]) if lost["failed"] else [lost["silent"]])
        elif _CAUSE.match(line) and not self._srun_line:
            self._srun_line = line

    def poll(self) -> list[int | None]:
        """Return each rank's exit code, or None while it runs. One of which nothing is known at the end was killed."""
        now = time.monotonic()
        if self._srun_ended_at is None and self._srun.poll() is not None:
            self._srun_ended_at = now
        for rank, end in list(self._seen_by_srun.items()):
            if now - end.at > _LATE_SECONDS:
                self._ends.setdefault(rank, end)
        if self._srun_ended_at is not None and now - self._srun_ended_at > _LATE_SECONDS:
            for rank in range(self._message.ranks):
                if rank not in self._ends and not self.is_lost(rank):
                    self._ends[rank] = RankEnd(-signal.SIGKILL, self._srun_line, self._srun_ended_at)
        return [self._ends[rank].code if rank in self._ends else None for rank in range(self._message.ranks)]

    def ended_at(self, rank: int) -> float:
        """Return when a rank was seen to have ended."""
        return self._ends[rank].at if rank in self._ends else float("inf")

    def last_line(self, rank: int) -> str:
        """Return the last line that a rank wrote to stderr; srun's if the rank was killed with its task."""
        return self._ends[rank].last_line if rank in self._ends else ""

    def host(self, rank: int) -> str:
        """Return the node that a rank runs on."""
        return self._hosts[rank]

    def is_lost(self, rank: int) -> bool:
        """Return whether a rank's node is lost, by what srun says."""
        return self._hosts[rank] in self._lost_nodes

    def request_stop(self) -> None:
        """Send SIGUSR1 to all ranks: the signal that srun forwards."""
        with suppress(ProcessLookupError):
            self._srun.send_signal(signal.SIGUSR1)

    def kill(self) -> None:
        """End the step and close the rendezvous: at SIGTERM, srun kills its tasks on all nodes."""
        if self._rendezvous:
            self._rendezvous.close()
        if self._srun.poll() is None and None not in self.poll():
            with suppress(subprocess.TimeoutExpired):
                self._srun.wait(_LATE_SECONDS)  # all tasks have ended, so srun will
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._srun.poll() is not None:
                break
            self._srun.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                self._srun.wait(_END_SECONDS)
        self._reader.join(timeout=1)


def _numbers(listed: str) -> Iterator[int]:
    """Yield the numbers of a list such as 0,2-3."""
    for part in listed.split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)
