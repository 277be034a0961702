"""python -m deploy.doctor.node FOLDER NODE…: examine one node of an allocation, as a task of `idxtrain doctor --site`.

It prints its clock a few times, for the launcher to compare. Then it writes a file into the shared folder, looks for
the files of all other nodes, and prints its facts as a line of JSON. Loads nothing heavy.
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


@dataclass(frozen=True, kw_only=True)
class NodeFacts:
    """What one node reports.

    `missing`: the nodes whose files it does not see. `fault`: why it has no network to the other nodes, and the fix;
    "" if it has one. `machine`: identifies the machine until it reboots. `interfaces`: all that have an IPv4 address.
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
    interfaces: tuple[str, ...] = ()


def facts(folder: Path, hosts: Collection[str], environment: Mapping[str, str] = os.environ) -> NodeFacts:
    """Return this node's facts. `folder`: on the file system that all nodes should share."""
    host = environment["SLURMD_NODENAME"]
    try:
        interface, address, fault = *_network(environment), ""
    except IdxtrainError as error:
        interface, address, fault = "", "", str(error)
    except OSError as error:
        interface, address, fault = "", "", f"reaches no other node ({error.strerror}): set the site's interface"
    return NodeFacts(
        host=host,
        python=platform.python_version(),
        versions={name: _version(name) for name in PACKAGES},
        gpus=visible_gpus(environment),
        interface=interface,
        address=address,
        fault=fault,
        machine=network.machine(),
        missing=_missing(folder, host, hosts),
        interfaces=tuple(name for name, listed in network.addresses().items() if listed),
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
    """Write this node's file; return the nodes whose files do not appear in time, or contain something else."""
    try:
        (folder / host).write_text(host, encoding="utf-8")
    except OSError:
        return tuple(hosts)
    deadline = time.monotonic() + _VISIBLE_SECONDS
    while missing := tuple(other for other in hosts if not _contains(folder / other, other)):
        if time.monotonic() > deadline:
            break
        time.sleep(_POLL_SECONDS)
    return missing


def _contains(path: Path, text: str) -> bool:
    try:
        return path.read_text(encoding="utf-8") == text
    except (OSError, ValueError):
        return False


def main(folder: Path, hosts: Sequence[str]) -> None:
    """Print the clock, then the facts."""
    host = os.environ["SLURMD_NODENAME"]
    for _ in range(_TICKS):
        print(f"{CLOCK}{host} {time.time():.6f}", flush=True)
        time.sleep(_TICK_SECONDS)
    print(json.dumps(asdict(facts(folder, hosts))), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
