"""python -m deploy.slurm.task COMMAND…: one task of the launcher's srun. It checks its node, then runs one rank.

Slurm gives a task its numbers, the launcher (`deploy.slurm.step`) the rest; together they make what Horovod reads. The
task writes the rank's exit code, last line and host to a file in the run folder, which the launcher watches.
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
from deploy.launcher.ranks import forward_line
from deploy.slurm import network
from deploy.slurm.message import StartMessage
from deploy.slurm.rank_id import RankId
from jobs import stop_signals
from jobs.errors import IdxtrainError
from jobs.exit_codes import exit_codes
from jobs.files import write_json
from jobs.process import PARENT
from jobs.train.compute.devices import CPUS

_VISIBLE_SECONDS = 30.0  # NFS may show a new file late


def main(command: Sequence[str]) -> int:
    """Run one rank; return 0 once its exit file is written."""
    message, rank_id = StartMessage.from_environment(), RankId.from_slurm(os.environ)
    try:
        interface = check_node(message, rank_id, os.environ)
    except IdxtrainError as error:
        code, line = IdxtrainError.exit_code, _report(rank_id, str(error))
    else:
        if message.ranks > 1:
            # Through srun's own pipe: only tasks of this step can write there.
            address = network.own_address_towards(message.address)
            print(f"{message.address_prefix}{rank_id.rank} {address}", file=sys.stderr, flush=True)
        code, line = _run(command, rank_id, rank_environment(message, rank_id, interface))
    write_json(message.exit_file(rank_id.rank), {"code": code, "last_line": line, "host": rank_id.host})
    return 0


def check_node(message: StartMessage, rank_id: RankId, environment: Mapping[str, str]) -> str:
    """Return the network interface to use; raise IdxtrainError if a rank cannot train on this node."""
    if rank_id.ranks != message.ranks:
        raise IdxtrainError(
            f"found a step of {rank_id.ranks} ranks, expected {message.ranks}; fix: ask the site's staff"
        )
    deadline = time.monotonic() + _VISIBLE_SECONDS
    while not message.attempt_file.exists():
        if time.monotonic() > deadline:
            raise IdxtrainError(
                f"found no {message.attempt_file} here, expected the launcher's file; "
                "fix: put --work on a file system that all nodes share"
            )
        time.sleep(0.1)
    gpus = visible_gpus(environment)
    # Slurm may show a rank all GPUs of its node, of which the rank takes its own, or only that one.
    if message.gpus and gpus != 1 and gpus < rank_id.local_size:
        raise IdxtrainError(
            f"found {gpus} GPUs for {rank_id.local_size} ranks, expected {message.gpus}; "
            "fix: set the site's train.gpus_per_node"
        )
    address = network.reachable_address(message.interface, message.address, message.machine)
    return network.interface_of(address, network.addresses())


def rank_environment(message: StartMessage, rank_id: RankId, interface: str) -> dict[str, str]:
    """Return the rank's environment."""
    inherited = {name: value for name, value in os.environ.items() if name not in message.environment()}
    own = {PARENT: str(os.getpid())} | ({CPUS: str(message.cpus)} if message.cpus else {})
    if message.ranks > 1:
        own |= rank_id.environment()
        own |= rendezvous.environment(message.address, message.port, message.key, interface)
    return inherited | own


def _run(command: Sequence[str], rank_id: RankId, environment: Mapping[str, str]) -> tuple[int, str]:
    """Run the rank; return its exit code, negative for a signal, and the last line it wrote to stderr."""
    try:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    except OSError as error:
        reason = f"{command[0]}: cannot be started ({error.strerror}); fix: change the site"
        return IdxtrainError.exit_code, _report(rank_id, reason)

    def pass_signal(number: int, frame: FrameType | None) -> None:
        with suppress(ProcessLookupError):
            process.send_signal(number)

    stop_signals.handle(pass_signal)
    last = [""]

    def read_stderr(lines: Iterable[bytes]) -> None:
        for line in lines:
            last[0] = forward_line(rank_id.rank, line) or last[0]

    reader = threading.Thread(target=read_stderr, args=(process.stderr or (),), daemon=True)
    reader.start()
    code = process.wait()
    reader.join(timeout=1)
    return code, last[0]


def _report(rank_id: RankId, reason: str) -> str:
    """Print why no rank runs on this node, as the rank's last line; return that line."""
    line = f"idxtrain: node {rank_id.host}: {reason}"
    forward_line(rank_id.rank, line.encode())
    return line


if __name__ == "__main__":
    with exit_codes():
        sys.exit(main(sys.argv[1:]))
