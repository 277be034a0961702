"""The ranks of a gang as processes of this machine: started, heard, ended."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO

from jobs.process import PARENT

LOOPBACK = "127.0.0.1"


@dataclass
class Rank:
    """A started rank, and the last line it wrote to stderr."""

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

    def last_words(self) -> str:
        """Return the last line the rank wrote to stderr, once all of it is read."""
        if self.reader:
            self.reader.join(timeout=1)
        return self.last_line


def rank_environment(rank: int, ranks: int, port: int) -> dict[str, str]:
    """Return what Horovod needs to know in a rank's environment; all ranks are on this machine."""
    return {
        "HOROVOD_HOSTNAME": LOOPBACK,
        "HOROVOD_RANK": str(rank),
        "HOROVOD_SIZE": str(ranks),
        "HOROVOD_LOCAL_RANK": str(rank),
        "HOROVOD_LOCAL_SIZE": str(ranks),
        "HOROVOD_CROSS_RANK": "0",
        "HOROVOD_CROSS_SIZE": "1",
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": LOOPBACK,
        "HOROVOD_GLOO_RENDEZVOUS_PORT": str(port),
        "HOROVOD_GLOO_IFACE": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
    }


def start_rendezvous(ranks: int) -> int:
    """Start Horovod's rendezvous server in a thread, on the loopback interface; return its port."""
    from horovod.runner.common.util.hosts import get_host_assignments, parse_hosts
    from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer

    # Horovod's own wrapper around this server binds to every interface.
    server = RendezvousHTTPServer((LOOPBACK, 0), RendezvousHandler, False)
    server.init(get_host_assignments(parse_hosts(f"{LOOPBACK}:{ranks}"), ranks))
    threading.Thread(target=server.serve_forever, name="rendezvous", daemon=True).start()
    return int(server.server_address[1])


def start(command: Sequence[str], ranks: int, environment: Mapping[str, str]) -> list[Rank]:
    """Start all ranks. Rank 0 keeps the terminal; each line of the others' stderr is passed on with their number."""
    port = start_rendezvous(ranks) if ranks > 1 else 0
    started = []
    for number in range(ranks):
        terminal = number == 0 and sys.stderr.isatty()
        process = subprocess.Popen(
            command,
            env={**environment, PARENT: str(os.getpid()), **(rank_environment(number, ranks, port) if port else {})},
            stdin=subprocess.DEVNULL,
            stderr=None if terminal else subprocess.PIPE,
            process_group=0,  # Ctrl-C goes to the launcher alone, which asks the ranks to stop
        )
        rank = Rank(number, process)
        if process.stderr:
            rank.reader = threading.Thread(target=_pass_on, args=(rank, process.stderr), daemon=True)
            rank.reader.start()
        started.append(rank)
    return started


def _pass_on(rank: Rank, lines: IO[bytes]) -> None:
    prefix = f"[rank {rank.number}] " if rank.number else ""
    for line in lines:
        text = line.decode(errors="replace").rstrip("\n")
        rank.last_line = text or rank.last_line
        print(prefix + text, file=sys.stderr, flush=True)


def ask(started: Sequence[Rank]) -> None:
    """Ask the ranks that still run to stop where it suits them."""
    for rank in started:
        if rank.poll() is None:
            rank.process.send_signal(signal.SIGTERM)


def kill(started: Sequence[Rank]) -> None:
    """End the ranks that still run, also one that is stopped. What they wrote by renaming stays whole."""
    for rank in started:
        if rank.poll() is None:
            rank.process.kill()
    for rank in started:
        rank.process.wait()
        rank.poll()
