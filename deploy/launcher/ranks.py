"""The ranks of one attempt: what the launcher needs of them wherever they run, and ranks on this machine."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Protocol

from deploy.launcher import rendezvous
from deploy.launcher.rendezvous import Rendezvous
from jobs.process import PARENT

LOOPBACK = "127.0.0.1"


class Ranks(Protocol):
    """The started ranks of one attempt.

    `peer_loss_seconds`: how much sooner than the launcher a rank may notice that a peer is lost.
    """

    peer_loss_seconds: float

    def poll(self) -> list[int | None]:
        """Return each rank's exit code, negative for a signal, or None while it runs."""

    def ended_at(self, rank: int) -> float:
        """Return when a rank was seen to have ended, by the monotonic clock; infinite while it runs."""

    def last_line(self, rank: int) -> str:
        """Return the last line that a rank wrote to stderr."""

    def host(self, rank: int) -> str:
        """Return the name of the host that a rank runs on."""

    def is_lost(self, rank: int) -> bool:
        """Return whether a rank is known to be lost together with its node."""

    def request_stop(self) -> None:
        """Ask the running ranks to stop at the next point where they can."""

    def kill(self) -> None:
        """Kill the running ranks, also suspended ones. Files they write by renaming stay whole."""


@dataclass(kw_only=True)
class Rank:
    """A rank as a process of this machine. `last_line`: the last one it wrote to stderr."""

    number: int
    process: subprocess.Popen[bytes]
    last_line: str = ""
    reader: threading.Thread | None = None
    ended_at: float = float("inf")

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs; record when it ended."""
        code = self.process.poll()
        if code is not None and self.ended_at == float("inf"):
            self.ended_at = time.monotonic()
        return code


class LocalRanks:
    """The ranks of one attempt as processes of this machine. See `Ranks`."""

    peer_loss_seconds = 1.0

    def __init__(self, command: Sequence[str], ranks: int, environment: Mapping[str, str]) -> None:
        self._rendezvous = _local_rendezvous(ranks) if ranks > 1 else None
        self._ranks = [_start(command, number, ranks, self._rendezvous, environment) for number in range(ranks)]

    def poll(self) -> list[int | None]:
        """Return each rank's exit code, or None while it runs."""
        return [rank.poll() for rank in self._ranks]

    def ended_at(self, rank: int) -> float:
        """Return when a rank was seen to have ended."""
        return self._ranks[rank].ended_at

    def last_line(self, rank: int) -> str:
        """Return the last line the rank wrote to stderr, once all of its output is read."""
        reader = self._ranks[rank].reader
        if reader:
            reader.join(timeout=1)
        return self._ranks[rank].last_line

    def host(self, rank: int) -> str:
        """Return this machine's name."""
        return socket.gethostname()

    def is_lost(self, rank: int) -> bool:
        """Return False: this process would be lost, too."""
        return False

    def request_stop(self) -> None:
        """Send SIGTERM to the running ranks."""
        for rank in self._ranks:
            if rank.poll() is None:
                rank.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the running ranks and close their rendezvous."""
        if self._rendezvous:
            self._rendezvous.close()
        for rank in self._ranks:
            if rank.poll() is None:
                rank.process.kill()
        for rank in self._ranks:
            rank.process.wait()
            rank.poll()


def rank_environment(rank: int, ranks: int, server: Rendezvous) -> dict[str, str]:
    """Return the variables that Horovod reads in a rank, with all ranks on this machine."""
    return {
        "HOROVOD_HOSTNAME": LOOPBACK,
        "HOROVOD_RANK": str(rank),
        "HOROVOD_SIZE": str(ranks),
        "HOROVOD_LOCAL_RANK": str(rank),
        "HOROVOD_LOCAL_SIZE": str(ranks),
        "HOROVOD_CROSS_RANK": "0",
        "HOROVOD_CROSS_SIZE": "1",
        **rendezvous.environment(LOOPBACK, server.port, server.key, "lo"),
        **rendezvous.nccl_defaults("lo"),
    }


def _local_rendezvous(ranks: int) -> Rendezvous:
    """Return a rendezvous that answers only ranks on this machine."""
    server = Rendezvous({LOOPBACK: ranks}, LOOPBACK, [0])
    for rank in range(ranks):
        server.admit(rank, LOOPBACK)
    return server


def _start(
    command: Sequence[str], number: int, ranks: int, server: Rendezvous | None, environment: Mapping[str, str]
) -> Rank:
    """Start a rank. Rank 0 keeps the terminal; the other ranks' stderr is forwarded, each line with its rank."""
    has_terminal = number == 0 and sys.stderr.isatty()
    process = subprocess.Popen(
        command,
        env={**environment, PARENT: str(os.getpid()), **(rank_environment(number, ranks, server) if server else {})},
        stdin=subprocess.DEVNULL,
        stderr=None if has_terminal else subprocess.PIPE,
        process_group=0,  # Ctrl-C reaches the launcher alone, which then asks the ranks to stop
    )
    rank = Rank(number=number, process=process)
    if process.stderr:
        rank.reader = threading.Thread(target=_read_stderr, args=(rank, process.stderr), daemon=True)
        rank.reader.start()
    return rank


def _read_stderr(rank: Rank, lines: IO[bytes]) -> None:
    for line in lines:
        rank.last_line = forward_line(rank.number, line) or rank.last_line


def forward_line(rank: int, line: bytes) -> str:
    """Print a rank's line to stderr, prefixed with its number unless it is rank 0; return the line unprefixed."""
    text = line.decode(errors="replace").rstrip("\n")
    print((f"[rank {rank}] " if rank else "") + text, file=sys.stderr, flush=True)
    return text
