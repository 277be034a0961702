"""python -m deploy.gang RANKS COMMAND…: start the ranks of a training on this machine, and end them all together.

Horovod's ranks find each other at Horovod's own rendezvous server and then talk over Gloo: no MPI, no SSH. This does
what `horovodrun` does on one machine, with what users of a pipeline need beside: everything listens on the loopback
interface alone, a rank's exit code is passed on, one line tells which rank failed and with what last words, and a dead
launcher leaves no rank behind.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import IO

from jobs.process import PARENT

_LOOPBACK = "127.0.0.1"
_POLL_SECONDS = 0.1
_GRACE_SECONDS = 10.0  # between asking the other ranks to end and making them
_FIRST_FAILURE_SECONDS = 1.0  # a rank's death makes others fail: the one to name is the first, not the loudest


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


def rank_environment(rank: int, ranks: int, port: int) -> dict[str, str]:
    """Return what Horovod needs to know in a rank's environment; all ranks are on this machine."""
    return {
        "HOROVOD_HOSTNAME": _LOOPBACK,
        "HOROVOD_RANK": str(rank),
        "HOROVOD_SIZE": str(ranks),
        "HOROVOD_LOCAL_RANK": str(rank),
        "HOROVOD_LOCAL_SIZE": str(ranks),
        "HOROVOD_CROSS_RANK": "0",
        "HOROVOD_CROSS_SIZE": "1",
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": _LOOPBACK,
        "HOROVOD_GLOO_RENDEZVOUS_PORT": str(port),
        "HOROVOD_GLOO_IFACE": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
        PARENT: str(os.getpid()),
    }


def start_rendezvous(ranks: int) -> int:
    """Start Horovod's rendezvous server in a thread, on the loopback interface; return its port."""
    from horovod.runner.common.util.hosts import get_host_assignments, parse_hosts
    from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer

    # Horovod's own wrapper around this server binds to every interface.
    server = RendezvousHTTPServer((_LOOPBACK, 0), RendezvousHandler, False)
    server.init(get_host_assignments(parse_hosts(f"{_LOOPBACK}:{ranks}"), ranks))
    threading.Thread(target=server.serve_forever, name="rendezvous", daemon=True).start()
    return int(server.server_address[1])


def start(command: Sequence[str], ranks: int, environment: Mapping[str, str]) -> list[Rank]:
    """Start all ranks. Rank 0 keeps the terminal; each line of the others' stderr is passed on with their number."""
    port = start_rendezvous(ranks)
    started = []
    for number in range(ranks):
        terminal = number == 0 and sys.stderr.isatty()
        process = subprocess.Popen(
            command,
            env={**environment, **rank_environment(number, ranks, port)},
            stdin=subprocess.DEVNULL,
            stderr=None if terminal else subprocess.PIPE,
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


def wait(started: Sequence[Rank]) -> int:
    """Wait until all ranks are done, or one has failed: then end the others. Return the exit code to end with."""
    while True:
        codes = [rank.poll() for rank in started]
        if all(code == 0 for code in codes):
            return 0
        if any(code for code in codes):
            time.sleep(_FIRST_FAILURE_SECONDS)
            failed = min((rank for rank in started if rank.poll()), key=lambda rank: rank.ended)
            end(started, signal.SIGTERM)
            return _tell(failed)
        time.sleep(_POLL_SECONDS)


def _tell(failed: Rank) -> int:
    """Say which rank failed, unless it has said itself what is wrong with the input; return the exit code."""
    code = int(failed.process.returncode)
    if code == 2:
        return code
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    if failed.reader:
        failed.reader.join(timeout=1)
    words = f"; its last words: {failed.last_line}" if failed.last_line else ""
    print(f"idxtrain: rank {failed.number} on {socket.gethostname()} {how}{words}", file=sys.stderr)
    return 1


def end(started: Sequence[Rank], how: signal.Signals) -> None:
    """Ask the ranks that still run to end, and after a while make them."""
    running = [rank for rank in started if rank.poll() is None]
    for rank in running:
        rank.process.send_signal(how)
    deadline = time.monotonic() + _GRACE_SECONDS
    for rank in running:
        try:
            rank.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            rank.process.kill()
            rank.process.wait()


def main(arguments: Sequence[str]) -> int:
    """Start, wait, and on SIGTERM or Ctrl-C end all ranks."""
    if len(arguments) < 2 or not arguments[0].isdigit() or arguments[0] == "0":
        print("idxtrain: usage: python -m deploy.gang RANKS COMMAND...", file=sys.stderr)
        return 2
    started = start(arguments[1:], int(arguments[0]), os.environ)

    def stop(number: int, frame: FrameType | None) -> None:
        end(started, signal.SIGTERM)
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    return wait(started)


if __name__ == "__main__":
    from jobs.process import die_with_parent

    die_with_parent()
    sys.exit(main(sys.argv[1:]))
