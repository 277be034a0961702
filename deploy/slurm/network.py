"""Which network the ranks of several nodes talk over."""

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from deploy.launcher.ranks import LOOPBACK
from deploy.slurm import queue
from jobs.errors import InputError

Addresses = Mapping[str, Sequence[str]]  # IPv4, by interface
_DISCARD = 9  # no packet is sent: a UDP socket that is connected merely knows its way


def addresses() -> dict[str, list[str]]:
    """Return this machine's IPv4 addresses by interface."""
    return {
        name: [address.address for address in found if address.family == socket.AF_INET]
        for name, found in psutil.net_if_addrs().items()
    }


def own_address_towards(host: str) -> str:
    """Return the address of this machine's from which packets leave for a host; raise OSError where none do."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, _DISCARD))
        return str(probe.getsockname()[0])


def own_address_among(nodes: Sequence[str], interface: str | None) -> str:
    """Return where this node, the first of a job's, listens for the others: on the interface, where one is named.

    Raises InputError where there is no such interface, OSError where no other node can be reached.
    """
    if len(nodes) == 1:
        return LOOPBACK
    if interface:
        return address_of(interface, addresses())
    return own_address_towards(queue.node_address(nodes[1]))


def interface_of(address: str, known: Addresses) -> str:
    """Return the interface that has an address; raise InputError where none has it."""
    for name, found in known.items():
        if address in found:
            return name
    raise InputError(f"{address}: no interface of this machine has it (there are {', '.join(known)}); name the site's")


def address_of(interface: str, known: Addresses) -> str:
    """Return an interface's address; raise InputError where there is no such interface, or it has none."""
    found = known.get(interface, ())
    if not found:
        there = ", ".join(name for name, having in known.items() if having)
        raise InputError(
            f"interface: found no {interface} with an IPv4 address, expected one of {there}; mend the site"
        )
    return found[0]


def is_loopback(address: str) -> bool:
    """Tell whether an IPv4 address stays within its machine."""
    return address.startswith("127.")


def machine() -> str:
    """Return what tells this machine, as long as it runs, from all others: nodes may be names of the same one."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()
