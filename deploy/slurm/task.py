"""python -m deploy.slurm.task COMMAND…: one task of the launcher's srun. It checks its node, then runs one rank.

Slurm gives a task its numbers, the launcher (`deploy.slurm.step`) the rest; together they make what Horovod reads. The
task reports to the launcher through srun's stderr: its address, then its rank's exit code and last line. The rank's
temporary files are in a private folder on its own node.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any

from deploy.launcher import rendezvous
from deploy.launcher.launch import visible_gpus
from deploy.launcher.ranks import forward_line
from deploy.slurm import network
from deploy.slurm.message import StartMessage
from deploy.slurm.rank_id import RankId
from deploy.slurm.scratch import private_folder, scratch_parent
from jobs import stop_signals
from jobs.errors import IdxtrainError, printable
from jobs.exit_codes import exit_codes
from jobs.process import PARENT
from jobs.train.compute.devices import CPUS, GPUS

_VISIBLE_SECONDS = 10.0  # NFS may show a new file late; ranks that wait for this one give up after 30 s
_MOST_REPORTED = 200  # characters of a last line: Slurm may mix lines of several tasks beyond about 1,000 bytes


def main(command: Sequence[str]) -> int:
    """Run one rank; return 0 once its end is reported."""
    message, rank_id = StartMessage.from_environment(), RankId.from_slurm(os.environ)

    def report(**facts: Any) -> None:
        print(message.report(rank_id.rank, **facts), file=sys.stderr, flush=True)

    try:
        interface = check_node(message, rank_id, os.environ)
        if message.ranks > 1:
            report(address=network.own_address_towards(message.address))
        with private_folder(scratch_parent(os.environ), f"{os.environ['SLURM_JOB_ID']}-rank-{rank_id.rank}") as folder:
            environment = {**rank_environment(message, rank_id, interface), "TMPDIR": str(folder)}
            code, line = _run(command, rank_id, environment)
    except IdxtrainError as error:
        code, line = IdxtrainError.exit_code, _complain(rank_id, str(error))
    report(code=code, last_line=printable(line)[:_MOST_REPORTED])
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
    own = {PARENT: str(os.getpid()), GPUS: str(message.gpus)} | ({CPUS: str(message.cpus)} if message.cpus else {})
    if message.ranks > 1:
        own |= rank_id.environment()
        own |= rendezvous.environment(message.address, message.port, message.key, interface)
        inherited = rendezvous.nccl_defaults(interface) | inherited  # the site knows its network better
    return inherited | own


def _run(command: Sequence[str], rank_id: RankId, environment: Mapping[str, str]) -> tuple[int, str]:
    """Run the rank; return its exit code, negative for a signal, and the last line it wrote to stderr."""
    try:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    except OSError as error:
        reason = f"{command[0]}: cannot be started ({error.strerror}); fix: change the site"
        return IdxtrainError.exit_code, _complain(rank_id, reason)

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


def _complain(rank_id: RankId, reason: str) -> str:
    """Print why no rank runs on this node, as the rank's last line; return that line."""
    line = f"idxtrain: node {rank_id.host}: {reason}"
    forward_line(rank_id.rank, line.encode())
    return line


if __name__ == "__main__":
    with exit_codes():
        sys.exit(main(sys.argv[1:]))
