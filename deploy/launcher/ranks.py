"""The ranks of a gang: what a launcher knows of them wherever they run, and those that run on this machine."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Protocol

from deploy.launcher import rendezvous
from deploy.launcher.rendezvous import Rendezvous
from jobs.process import PARENT

LOOPBACK = "127.0.0.1"


class Ranks(Protocol):
    """The started ranks of one attempt.

    `peer_seconds`: so long may a rank notice that a peer is lost before that one is seen to have ended.
    """

    peer_seconds: float

    def poll(self) -> list[int | None]:
        """Return each rank's exit code, as `subprocess` has it, or None while it runs."""

    def ended(self, rank: int) -> float:
        """Return when a rank was seen to have ended; infinite while it runs."""

    def last_words(self, rank: int) -> str:
        """Return the last line that a rank wrote to stderr."""

    def host(self, rank: int) -> str:
        """Return where a rank runs."""

    def ask(self) -> None:
        """Ask the ranks that still run to stop where it suits them."""

    def kill(self) -> None:
        """End the ranks that still run, also one that is stopped. What they wrote by renaming stays whole."""


@dataclass
class Rank:
    """A rank as a process of this machine, and the last line it wrote to stderr."""

    number: int
    process: subprocess.Popen[bytes]
    last_line: str = ""
    reader: threading.Thread | None = None
    ended: float = field(default=float("inf"))

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs; take down when it ended."""
        code = self.process.poll()
        if code is not None and self.ended == float("inf"):
            self.ended = time.monotonic()
        return code


class LocalRanks:
    """The ranks of a gang as processes of this machine: started, heard, ended. See `Ranks`."""

    peer_seconds = 1.0

    def __init__(self, command: Sequence[str], ranks: int, environment: Mapping[str, str]) -> None:
        self._rendezvous = _rendezvous(ranks) if ranks > 1 else None
        self._ranks = [_start(command, number, ranks, self._rendezvous, environment) for number in range(ranks)]

    def poll(self) -> list[int | None]:
        """Return each rank's exit code, or None while it runs."""
        return [rank.poll() for rank in self._ranks]

    def ended(self, rank: int) -> float:
        """Return when a rank was seen to have ended."""
        return self._ranks[rank].ended

    def last_words(self, rank: int) -> str:
        """Return the last line the rank wrote to stderr, once all of it is read."""
        reader = self._ranks[rank].reader
        if reader:
            reader.join(timeout=1)
        return self._ranks[rank].last_line

    def host(self, rank: int) -> str:
        """Return this machine's name."""
        return socket.gethostname()

    def ask(self) -> None:
        """Ask the ranks that still run to stop."""
        for rank in self._ranks:
            if rank.poll() is None:
                rank.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the ranks that still run, and their rendezvous."""
        if self._rendezvous:
            self._rendezvous.close()
        for rank in self._ranks:
            if rank.poll() is None:
                rank.process.kill()
        for rank in self._ranks:
            rank.process.wait()
            rank.poll()


def rank_environment(rank: int, ranks: int, where: Rendezvous) -> dict[str, str]:
    """Return what Horovod needs to know in a rank's environment; all ranks are on this machine."""
    return {
        "HOROVOD_HOSTNAME": LOOPBACK,
        "HOROVOD_RANK": str(rank),
        "HOROVOD_SIZE": str(ranks),
        "HOROVOD_LOCAL_RANK": str(rank),
        "HOROVOD_LOCAL_SIZE": str(ranks),
        "HOROVOD_CROSS_RANK": "0",
        "HOROVOD_CROSS_SIZE": "1",
        **rendezvous.environment(LOOPBACK, where.port, where.key, "lo"),
    }


def _rendezvous(ranks: int) -> Rendezvous:
    """Return where ranks of this machine find each other, and nobody else finds anything."""
    started = Rendezvous({LOOPBACK: ranks}, LOOPBACK, [0])
    for rank in range(ranks):
        started.admit(rank, LOOPBACK)
    return started


def _start(
    command: Sequence[str], number: int, ranks: int, where: Rendezvous | None, environment: Mapping[str, str]
) -> Rank:
    """Start a rank. Rank 0 keeps the terminal; each line of the others' stderr is passed on with their number."""
    terminal = number == 0 and sys.stderr.isatty()
    process = subprocess.Popen(
        command,
        env={**environment, PARENT: str(os.getpid()), **(rank_environment(number, ranks, where) if where else {})},
        stdin=subprocess.DEVNULL,
        stderr=None if terminal else subprocess.PIPE,
        process_group=0,  # Ctrl-C goes to the launcher alone, which asks the ranks to stop
    )
    rank = Rank(number, process)
    if process.stderr:
        rank.reader = threading.Thread(target=_hear, args=(rank, process.stderr), daemon=True)
        rank.reader.start()
    return rank


def _hear(rank: Rank, lines: IO[bytes]) -> None:
    for line in lines:
        rank.last_line = pass_on(rank.number, line) or rank.last_line


def pass_on(rank: int, line: bytes) -> str:
    """Write a line of a rank to stderr, with its number where it is not rank 0; return it without."""
    text = line.decode(errors="replace").rstrip("\n")
    print((f"[rank {rank}] " if rank else "") + text, file=sys.stderr, flush=True)
    return text
