"""python -m deploy.slurm.task COMMAND…: one task of the launcher's srun. It checks its node, then runs one rank.

Slurm tells a task its place, the launcher (`deploy.slurm.step`) the rest; from both comes what Horovod reads. How the
rank ended, with which last words and where, goes into a file of the run directory, which the launcher watches.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from types import FrameType

from deploy.launcher import rendezvous
from deploy.launcher.launch import visible_gpus
from deploy.launcher.ranks import pass_on
from deploy.slurm import message, network
from deploy.slurm.message import Order
from deploy.slurm.rank_id import RankId, place
from jobs import stop_signals
from jobs.errors import IdxtrainError
from jobs.files import write_json
from jobs.process import PARENT
from jobs.train.compute.devices import CPUS

_VISIBLE_SECONDS = 30.0  # NFS may show a new file late


def main(command: Sequence[str]) -> int:
    """Run one rank; return 0 once it is written down how it ended."""
    ordered, here = message.take(), place(os.environ)
    try:
        interface = check(ordered, here, os.environ)
    except IdxtrainError as error:
        words = f"idxtrain: node {here.host}: {error}"
        pass_on(here.rank, words.encode())
        code = IdxtrainError.exit_code
    else:
        if ordered.ranks > 1:
            # Through srun's own pipe: nobody but a task of this step can write there.
            address = network.own_address_towards(ordered.address)
            print(f"{ordered.hello}{here.rank} {address}", file=sys.stderr, flush=True)
        code, words = _run(command, here, environment(ordered, here, interface))
    write_json(ordered.exit_file(here.rank), {"code": code, "words": words, "host": here.host})
    return 0


def check(ordered: Order, here: RankId, environment: Mapping[str, str]) -> str:
    """Return the interface to talk over; raise IdxtrainError where this node cannot be trained on."""
    if here.ranks != ordered.ranks:
        raise IdxtrainError(f"found a step of {here.ranks} ranks, expected {ordered.ranks}; ask the site's staff")
    deadline = time.monotonic() + _VISIBLE_SECONDS
    while not ordered.mark.exists():
        if time.monotonic() > deadline:
            raise IdxtrainError(
                f"does not see {ordered.mark}, which the launcher wrote; put --work on a file system all nodes share"
            )
        time.sleep(0.1)
    gpus = visible_gpus(environment)
    # A rank may be shown all GPUs of its node, of which it takes its own, or that one alone.
    if ordered.gpus and gpus != 1 and gpus < here.local_size:
        raise IdxtrainError(f"found {gpus} GPUs for {here.local_size} ranks, expected {ordered.gpus}; mend the site")
    known = network.addresses()
    if ordered.interface:
        address = network.address_of(ordered.interface, known)
    else:
        address = network.own_address_towards(ordered.address)
    if network.is_loopback(address) and network.machine() != ordered.machine:
        raise IdxtrainError(
            f"talks over the loopback interface ({address}), which other nodes cannot reach; set the site's interface"
        )
    return network.interface_of(address, known)


def environment(ordered: Order, here: RankId, interface: str) -> dict[str, str]:
    """Return the rank's environment."""
    found = {name: value for name, value in os.environ.items() if name not in ordered.environment()}
    found |= {PARENT: str(os.getpid())} | ({CPUS: str(ordered.cpus)} if ordered.cpus else {})
    if ordered.ranks > 1:
        found |= here.environment() | rendezvous.environment(ordered.address, ordered.port, ordered.key, interface)
    return found


def _run(command: Sequence[str], here: RankId, environment: Mapping[str, str]) -> tuple[int, str]:
    """Run the rank; return its exit code, negative for a signal, and the last line it wrote to stderr."""
    try:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    except OSError as error:
        words = f"idxtrain: node {here.host}: {command[0]} cannot be started ({error.strerror}); mend the site"
        pass_on(here.rank, words.encode())
        return IdxtrainError.exit_code, words

    def pass_signal(number: int, frame: FrameType | None) -> None:
        with suppress(ProcessLookupError):
            process.send_signal(number)

    stop_signals.handle(pass_signal)
    last = [""]

    def hear(lines: Iterable[bytes]) -> None:
        for line in lines:
            last[0] = pass_on(here.rank, line) or last[0]

    reader = threading.Thread(target=hear, args=(process.stderr or (),), daemon=True)
    reader.start()
    code = process.wait()
    reader.join(timeout=1)
    return code, last[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
