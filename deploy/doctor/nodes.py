"""The rows of `idxtrain doctor --site`: what each node of an allocation said, judged. Pure functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deploy.doctor.check import Verdict
from deploy.doctor.node import PACKAGES, NodeFacts
from deploy.slurm import network
from deploy.slurm.site import Site

HEADER = ("node", "python", *PACKAGES, "GPUs", "interface", "sees files of", "clock", "allreduce", "verdict", "mend")
_SKEW_SECONDS = 2.0
_SLOW = 0.5  # of the quickest node's allreduce


@dataclass(frozen=True)
class Row:
    """A node's line of the table."""

    cells: tuple[str, ...]
    verdict: Verdict
    mends: tuple[str, ...]


def rows(
    nodes: Sequence[str],
    facts: Mapping[str, NodeFacts],
    ahead: Mapping[str, float],
    speeds: Mapping[str, float],
    site: Site,
) -> list[Row]:
    """Judge all nodes, in order; what is missing of one was not found out.

    `facts`: what each node said. `ahead`: of this process's clock, in seconds. `speeds`: its slowest rank's allreduce
    in MB/s.
    """
    first = next((facts[node] for node in nodes if node in facts), None)
    quickest = max(speeds.values(), default=0.0)
    found = []
    for node in nodes:
        one = facts.get(node)
        if one is None or first is None:
            found.append(_silent(node))
            continue
        fails = [*_software(one, first), *_gpus(one, site), *_network(one, first, nodes), *_files(one)]
        warnings = [*_clock(ahead.get(node, 0.0)), *_speed(speeds.get(node, quickest), quickest)]
        verdict: Verdict = "fails" if fails else "warning" if warnings else "ok"
        found.append(
            Row(_cells(one, ahead.get(node), speeds.get(node), site, len(nodes)), verdict, (*fails, *warnings))
        )
    return found


def _silent(node: str) -> Row:
    blank = ("?",) * (len(HEADER) - 3)
    mend = "its task said nothing: see the lines above; ask the site's staff about this node, or --exclude it"
    return Row((node, *blank), "fails", (mend,))


def _cells(one: NodeFacts, ahead: float | None, speed: float | None, site: Site, nodes: int) -> tuple[str, ...]:
    return (
        one.host,
        one.python,
        *(one.versions[name] for name in PACKAGES),
        f"{one.gpus} of {site.train.gpus_per_node}",
        f"{one.interface} {one.address}".strip() or "none",
        f"{nodes - len(one.missing)} of {nodes}",
        "?" if ahead is None else f"{ahead:+.2f} s",
        "not tried" if speed is None else f"{speed:.0f} MB/s",
    )


def _software(facts: NodeFacts, first: NodeFacts) -> list[str]:
    other = [name for name in PACKAGES if facts.versions[name] != first.versions[name]]
    other += ["python"] if facts.python != first.python else []
    if not other:
        return []
    return [f"has another {', '.join(other)} than {first.host}: put this environment on a file system all nodes share"]


def _gpus(facts: NodeFacts, site: Site) -> list[str]:
    wanted = site.train.gpus_per_node
    if facts.gpus >= wanted:
        return []
    return [f"found {facts.gpus} GPUs: ask for them (gpus_per_node, gpu_type, partition of the site), or expect fewer"]


def _network(facts: NodeFacts, first: NodeFacts, nodes: Sequence[str]) -> list[str]:
    if facts.fault:
        return [facts.fault]
    if len(nodes) > 1 and network.is_loopback(facts.address) and facts.machine != first.machine:
        return ["talks over loopback, which other nodes cannot reach: set the site's interface"]
    return []


def _files(facts: NodeFacts) -> list[str]:
    if not facts.missing:
        return []
    return [f"does not see what {', '.join(facts.missing)} wrote: put --work on a file system all nodes share"]


def _clock(ahead: float) -> list[str]:
    if abs(ahead) <= _SKEW_SECONDS:
        return []
    return [f"its clock is off by {ahead:+.1f} s: ask the site's staff to mend NTP there; times in logs mislead"]


def _speed(speed: float, quickest: float) -> list[str]:
    if speed >= _SLOW * quickest:
        return []
    return [f"is slower than half of the quickest ({quickest:.0f} MB/s): leave it out (--exclude), or tell the staff"]


def lines(found: Sequence[Row]) -> list[str]:
    """Return the table, one line a node."""
    table = [HEADER, *((*one.cells, one.verdict, "; ".join(one.mends)) for one in found)]
    widths = [max(len(cells[column]) for cells in table) for column in range(len(HEADER))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip() for cells in table]


def by_node(nodes: Sequence[str], ranks_per_node: int, speeds: Sequence[float]) -> dict[str, float]:
    """Return the slowest rank's speed of each node; ranks fill node by node."""
    groups = [speeds[n * ranks_per_node : (n + 1) * ranks_per_node] for n in range(len(nodes))]
    return {node: min(group) for node, group in zip(nodes, groups, strict=True) if group}
