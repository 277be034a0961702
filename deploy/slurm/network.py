"""The network that the nodes of a job reach each other over."""

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from deploy.launcher.ranks import LOOPBACK
from deploy.slurm import queue
from jobs.errors import IdxtrainError, InputError

Addresses = Mapping[str, Sequence[str]]  # IPv4, by interface
_DISCARD_PORT = 9  # no packet is sent: connecting a UDP socket only chooses its route


def addresses() -> dict[str, list[str]]:
    """Return this machine's IPv4 addresses by interface."""
    return {
        name: [each.address for each in listed if each.family == socket.AF_INET]
        for name, listed in psutil.net_if_addrs().items()
    }


def own_address_towards(host: str) -> str:
    """Return this machine's address from which packets leave for a host; raise OSError if there is no route."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, _DISCARD_PORT))
        return str(probe.getsockname()[0])


def own_address_among(nodes: Sequence[str], interface: str | None) -> str:
    """Return where this node, the job's first, listens for the others: on the interface, if one is named.

    Raises InputError if there is no such interface, OSError if there is no route to the second node.
    """
    if len(nodes) == 1:
        return LOOPBACK
    if interface:
        return address_of(interface, addresses())
    return own_address_towards(queue.node_address(nodes[1]))


def reachable_address(interface: str, peer: str, peer_machine: str) -> str:
    """Return this node's address for the job's other nodes: the interface's, or the one that leads to `peer`.

    `interface`: may be empty. `peer`: an address of the launcher's node. `peer_machine`: that node's `machine()`.
    Raises IdxtrainError for a loopback address unless both nodes are this machine, InputError if there is no such
    interface, OSError if there is no route to the peer.
    """
    address = address_of(interface, addresses()) if interface else own_address_towards(peer)
    if is_loopback(address) and machine() != peer_machine:
        raise IdxtrainError(
            f"interface: found loopback ({address}), expected one that other nodes can reach; "
            "fix: set the site's interface"
        )
    return address


def interface_of(address: str, known: Addresses) -> str:
    """Return the interface that has an address; raise InputError if none has it."""
    for name, having in known.items():
        if address in having:
            return name
    raise InputError(
        f"interface: found no interface with {address} on this machine, expected it on one of {', '.join(known)}; "
        "fix: set the site's interface"
    )


def address_of(interface: str, known: Addresses) -> str:
    """Return an interface's first address; raise InputError if there is no such interface, or it has none."""
    having = known.get(interface, ())
    if not having:
        usable = ", ".join(name for name, listed in known.items() if listed)
        raise InputError(
            f"interface: found no {interface} with an IPv4 address, expected one of {usable}; "
            "fix: set the site's interface"
        )
    return having[0]


def is_loopback(address: str) -> bool:
    """Return whether an IPv4 address cannot be reached from other machines."""
    return address.startswith("127.")


def machine() -> str:
    """Return an ID of this machine, as long as it runs: two nodes may be names of the same machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()
