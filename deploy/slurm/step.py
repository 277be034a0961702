"""The ranks of one attempt as one srun in an allocation: started, watched, ended. See `deploy.launcher.ranks`."""

import json
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.launcher.rendezvous import Rendezvous
from deploy.slurm import commands, network, queue
from deploy.slurm.message import StartMessage
from deploy.slurm.rank_id import ranks_per_host
from deploy.slurm.site import Site
from jobs.python import module_command

_FIRST_PORT, _PORTS, _TRIES = 20000, 10000, 100  # the rendezvous server's: each job begins at another, then tries on
_LATE_SECONDS = 5.0  # an exit file may become visible after srun has ended
_END_SECONDS = 20.0


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
        return StepRanks(argv, message, counts, {**environment, **message.environment()}, rendezvous)


def allocation(site: Site, folder: Path, environment: Mapping[str, str]) -> Allocation:
    """Return the allocation that this process runs in; raise KeyError if it runs in none."""
    nodes = tuple(queue.node_names(environment["SLURM_JOB_NODELIST"]))
    return Allocation(site=site, job=int(environment["SLURM_JOB_ID"]), nodes=nodes, folder=folder)


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
        self._exits: dict[int, dict[str, Any]] = {}  # by rank: its exit file's contents
        self._ended_at = [float("inf")] * message.ranks
        self._srun_line = ""
        self._srun_ended_at: float | None = None
        # In a group of its own: signals to the job are for the launcher to pass on.
        self._srun = subprocess.Popen(
            argv, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, process_group=0
        )
        self._reader = threading.Thread(target=self._forward, args=(self._srun.stderr or (),), daemon=True)
        self._reader.start()

    def _forward(self, lines: Iterable[bytes]) -> None:
        """Print what the tasks and srun write, but not the tasks' addresses. The tasks have prefixed their lines."""
        for line in lines:
            text = line.decode(errors="replace").rstrip("\n")
            if text.startswith(self._message.address_prefix):
                rank, _, address = text.removeprefix(self._message.address_prefix).partition(" ")
                if self._rendezvous and rank.isdecimal():
                    self._rendezvous.admit(int(rank), address)
                continue
            if text.startswith("srun: error: ") or (text.startswith("slurmstepd: ") and not self._srun_line):
                self._srun_line = text
            print(text, file=sys.stderr, flush=True)

    def poll(self) -> list[int | None]:
        """Return each rank's exit code, or None while it runs. A rank without an exit file counts as killed."""
        now = time.monotonic()
        if self._srun_ended_at is None and self._srun.poll() is not None:
            self._srun_ended_at = now
        ranks = range(self._message.ranks)
        for rank in ranks:
            if rank not in self._exits and (written := _read_exit(self._message.exit_file(rank))):
                self._exits[rank], self._ended_at[rank] = written, now
        if self._srun_ended_at is not None and now - self._srun_ended_at > _LATE_SECONDS:
            for rank in ranks:
                if rank not in self._exits:
                    self._exits[rank] = {"code": -signal.SIGKILL, "last_line": self._srun_line}
                    self._ended_at[rank] = self._srun_ended_at
        return [self._exits[rank]["code"] if rank in self._exits else None for rank in ranks]

    def ended_at(self, rank: int) -> float:
        """Return when a rank was seen to have ended."""
        return self._ended_at[rank]

    def last_line(self, rank: int) -> str:
        """Return the last line that a rank wrote to stderr; srun's if the rank was killed with its task."""
        return str(self._exits.get(rank, {}).get("last_line", ""))

    def host(self, rank: int) -> str:
        """Return the node that a rank runs on."""
        return str(self._exits.get(rank, {}).get("host", self._hosts[rank]))

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


def _read_exit(path: Path) -> dict[str, Any] | None:
    """Return the contents of an exit file; None if it is missing or torn."""
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return written if isinstance(written, dict) and isinstance(written.get("code"), int) else None
