"""python -m deploy.doctor.node FOLDER: look at one node of an allocation, as a task of `idxtrain doctor --site`.

It writes a file into the shared folder, looks for those of all other nodes, and prints what it found, a line of JSON.
Before that it prints its clock a few times, for the launcher to compare. Loads nothing heavy.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from deploy.launcher.launch import visible_gpus
from deploy.slurm import network
from jobs.errors import IdxtrainError

PACKAGES = ("tensorflow", "horovod", "pyspark", "petastorm")
CLOCK = "clock "
ADDRESS, INTERFACE = "IDXTRAIN_DOCTOR_ADDRESS", "IDXTRAIN_DOCTOR_INTERFACE"  # the launcher's; the site's
_TICKS, _TICK_SECONDS = 5, 0.05
_VISIBLE_SECONDS = 30.0  # NFS may show a new file late
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class NodeFacts:
    """What a node says of itself.

    `missing`: the nodes whose files it does not see. `fault`: why no network was found, and the mend. `machine`: tells
    it from all others as long as it runs.
    """

    host: str
    python: str
    versions: Mapping[str, str]
    gpus: int
    interface: str
    address: str
    fault: str
    machine: str
    missing: tuple[str, ...]


def facts(folder: Path, hosts: Collection[str], environment: Mapping[str, str] = os.environ) -> NodeFacts:
    """Return what is found on this node. `folder`: on the file system that all are to share."""
    host = environment["SLURMD_NODENAME"]
    try:
        interface, address, fault = *_network(environment), ""
    except IdxtrainError as error:
        interface, address, fault = "", "", str(error)
    except OSError as error:
        interface, address, fault = "", "", f"reaches no other node ({error.strerror}): set the site's interface"
    return NodeFacts(
        host,
        platform.python_version(),
        {name: _version(name) for name in PACKAGES},
        visible_gpus(environment),
        interface,
        address,
        fault,
        network.machine(),
        _missing(folder, host, hosts),
    )


def _network(environment: Mapping[str, str]) -> tuple[str, str]:
    known = network.addresses()
    named = environment.get(INTERFACE)
    address = network.address_of(named, known) if named else network.own_address_towards(environment[ADDRESS])
    return network.interface_of(address, known), address


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _missing(folder: Path, host: str, hosts: Collection[str]) -> tuple[str, ...]:
    """Write this node's file; return the nodes whose files do not show themselves in time, or hold something else."""
    try:
        (folder / host).write_text(host, encoding="utf-8")
    except OSError:
        return tuple(hosts)
    deadline = time.monotonic() + _VISIBLE_SECONDS
    while missing := tuple(other for other in hosts if not _says(folder / other, other)):
        if time.monotonic() > deadline:
            break
        time.sleep(_POLL_SECONDS)
    return missing


def _says(path: Path, text: str) -> bool:
    try:
        return path.read_text(encoding="utf-8") == text
    except (OSError, ValueError):
        return False


def main(folder: Path, hosts: Sequence[str]) -> None:
    """Print the clock, then the facts."""
    here = os.environ["SLURMD_NODENAME"]
    for _ in range(_TICKS):
        print(f"{CLOCK}{here} {time.time():.6f}", flush=True)
        time.sleep(_TICK_SECONDS)
    print(json.dumps(asdict(facts(folder, hosts))), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
