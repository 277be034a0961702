"""The ranks of a gang as one srun of the job's allocation: started, heard, ended. See `deploy.launcher.ranks`."""

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
from deploy.slurm.message import Order
from deploy.slurm.rank_id import hosts
from deploy.slurm.site import Site
from jobs.python import module_command

_FIRST_PORT, _PORTS, _TRIES = 20000, 10000, 100  # the rendezvous server's: a place of each job's own, then the next
_LATE_SECONDS = 5.0  # an exit file may show itself later than srun ends
_END_SECONDS = 20.0


@dataclass(frozen=True)
class Allocation:
    """The nodes that a job was given, and the site they belong to. `folder`: shared, of the run directory."""

    site: Site
    job: int
    nodes: tuple[str, ...]
    folder: Path

    def start(self, command: Sequence[str], ranks: int, environment: Mapping[str, str]) -> "StepRanks":
        """Start the ranks; raises OSError where that cannot be done here."""
        placed = hosts(self.nodes, self.site.train.ranks_per_node, ranks)
        address = network.own_address_among(list(placed), self.site.interface)
        first = _FIRST_PORT + self.job * 13 % _PORTS  # 13: jobs next to each other do not meet at each other's second
        rendezvous = Rendezvous(placed, address, [*range(first, first + _TRIES), 0]) if ranks > 1 else None
        ordered = Order(
            folder=str(self.folder),
            token=secrets.token_hex(8),
            ranks=ranks,
            address=address,
            port=rendezvous.port if rendezvous else 0,
            interface=(self.site.interface or "") if len(placed) > 1 else "",
            machine=network.machine(),
            gpus=self.site.train.gpus_per_node,
            cpus=self.site.train.cpus or 0,
            key=rendezvous.key if rendezvous else "",
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        ordered.mark.touch()
        argv = [*commands.step(self.site, ranks), *module_command("deploy.slurm.task", *command)]
        return StepRanks(argv, ordered, placed, {**environment, **ordered.environment()}, rendezvous)


def allocation(site: Site, folder: Path, environment: Mapping[str, str]) -> Allocation:
    """Return the allocation that this process runs in; raises KeyError where it runs in none."""
    nodes = tuple(queue.node_names(environment["SLURM_JOB_NODELIST"]))
    return Allocation(site, int(environment["SLURM_JOB_ID"]), nodes, folder)


class StepRanks:
    """The ranks of one srun. See `deploy.launcher.ranks.Ranks`."""

    peer_seconds = 20.0  # a rank that was killed with its task is known by the end of srun alone

    def __init__(
        self,
        argv: Sequence[str],
        ordered: Order,
        placed: Mapping[str, int],
        environment: Mapping[str, str],
        rendezvous: Rendezvous | None,
    ) -> None:
        self._order, self._rendezvous = ordered, rendezvous
        self._hosts = [host for host, count in placed.items() for _ in range(count)]
        self._found: dict[int, dict[str, Any]] = {}
        self._ended = [float("inf")] * ordered.ranks
        self._last_line = ""
        self._over: float | None = None
        # In a group of its own: a signal to the job's process is for the launcher to pass on.
        self._srun = subprocess.Popen(
            argv, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, process_group=0
        )
        self._reader = threading.Thread(target=self._hear, args=(self._srun.stderr or (),), daemon=True)
        self._reader.start()

    def _hear(self, lines: Iterable[bytes]) -> None:
        """Pass on what the tasks and srun write: the tasks have put their numbers before their lines."""
        for line in lines:
            text = line.decode(errors="replace").rstrip("\n")
            if text.startswith(self._order.hello):
                rank, _, address = text.removeprefix(self._order.hello).partition(" ")
                if self._rendezvous and rank.isdecimal():
                    self._rendezvous.admit(int(rank), address)
                continue
            if text.startswith("srun: error: ") or (text.startswith("slurmstepd: ") and not self._last_line):
                self._last_line = text
            print(text, file=sys.stderr, flush=True)

    def poll(self) -> list[int | None]:
        """Return each rank's exit code, or None while it runs. One that could not tell counts as killed."""
        now = time.monotonic()
        if self._over is None and self._srun.poll() is not None:
            self._over = now
        for rank in range(self._order.ranks):
            if rank not in self._found and (told := _read(self._order.exit_file(rank))):
                self._found[rank], self._ended[rank] = told, now
        if self._over is not None and now - self._over > _LATE_SECONDS:
            for rank in range(self._order.ranks):
                if rank not in self._found:
                    self._found[rank] = {"code": -signal.SIGKILL, "words": self._last_line}
                    self._ended[rank] = self._over
        return [self._found[rank]["code"] if rank in self._found else None for rank in range(self._order.ranks)]

    def ended(self, rank: int) -> float:
        """Return when a rank was seen to have ended."""
        return self._ended[rank]

    def last_words(self, rank: int) -> str:
        """Return the last line that a rank wrote to stderr; srun's where the rank was killed with its task."""
        return str(self._found.get(rank, {}).get("words", ""))

    def host(self, rank: int) -> str:
        """Return the node that a rank runs on."""
        return str(self._found.get(rank, {}).get("host", self._hosts[rank]))

    def ask(self) -> None:
        """Ask all ranks to stop: SIGUSR1, as that is what srun forwards."""
        with suppress(ProcessLookupError):
            self._srun.send_signal(signal.SIGUSR1)

    def kill(self) -> None:
        """End the step, and the rendezvous: at a SIGTERM, srun kills its tasks on all nodes."""
        if self._rendezvous:
            self._rendezvous.close()
        if self._srun.poll() is None and None not in self.poll():
            with suppress(subprocess.TimeoutExpired):
                self._srun.wait(_LATE_SECONDS)  # all have ended; so will it
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._srun.poll() is not None:
                break
            self._srun.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                self._srun.wait(_END_SECONDS)
        self._reader.join(timeout=1)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("code"), int) else None
