"""The rows of `idxtrain doctor --site`: judge what each node of an allocation reported. Pure functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deploy.doctor.check import Verdict
from deploy.doctor.node import PACKAGES, NodeFacts
from deploy.slurm import network
from deploy.slurm.site import Site
from jobs.text_table import text_table

HEADER = ("node", "python", *PACKAGES, "GPUs", "interface", "sees files of", "clock", "allreduce", "verdict", "fix")
_SKEW_SECONDS = 2.0
_SLOW = 0.5  # of the fastest node's allreduce
_FAST_NETWORKS = ("ib", "hsn")  # names of InfiniBand's and Slingshot's interfaces begin so


@dataclass(frozen=True)
class NodeFinding:
    """A node's row of the table. `cells`: all but the last two columns. `fixes`: each starts with the problem."""

    cells: tuple[str, ...]
    verdict: Verdict
    fixes: tuple[str, ...]


def rows(
    nodes: Sequence[str],
    facts: Mapping[str, NodeFacts],
    ahead: Mapping[str, float],
    speeds: Mapping[str, float],
    site: Site,
) -> list[NodeFinding]:
    """Judge all nodes, in order. Nodes may be missing from the mappings.

    `facts`: what each node reported. `ahead`: seconds by which its clock is ahead of this process's. `speeds`: MB/s of
    its slowest rank in the allreduce.
    """
    first = next((facts[node] for node in nodes if node in facts), None)
    fastest, better = max(speeds.values(), default=0.0), _better_interface(list(facts.values()), site)
    findings = []
    for node in nodes:
        one = facts.get(node)
        if one is None or first is None:
            findings.append(_silent(node))
            continue
        fails = [*_software(one, first), *_gpus(one, site), *_network(one, first, nodes), *_files(one)]
        warnings = [*_clock(ahead.get(node, 0.0)), *_speed(speeds.get(node, fastest), fastest)]
        if better and node == nodes[0]:
            warnings.append(
                f'uses {one.interface}, but each node also has {better}: try interface = "{better}" in the site'
            )
        verdict: Verdict = "fails" if fails else "warning" if warnings else "ok"
        cells = _cells(one, ahead.get(node), speeds.get(node), site, len(nodes))
        findings.append(NodeFinding(cells, verdict, (*fails, *warnings)))
    return findings


def _silent(node: str) -> NodeFinding:
    blank = ("?",) * (len(HEADER) - 3)
    fix = "its task reported nothing: see the lines above; ask the site's staff about this node, or --exclude it"
    return NodeFinding((node, *blank), "fails", (fix,))


def _cells(one: NodeFacts, ahead: float | None, speed: float | None, site: Site, nodes: int) -> tuple[str, ...]:
    return (
        one.host,
        one.python,
        *(one.versions[name] for name in PACKAGES),
        f"{one.gpus} of {site.train.gpus_per_node}",
        f"{one.interface} {one.address}".strip() or "none",
        f"{nodes - len(one.missing)} of {nodes}",
        "?" if ahead is None else f"{ahead:+.2f} s",
        "not run" if speed is None else f"{speed:.0f} MB/s",
    )


def _software(facts: NodeFacts, first: NodeFacts) -> list[str]:
    other = [name for name in PACKAGES if facts.versions[name] != first.versions[name]]
    other += ["python"] if facts.python != first.python else []
    if not other:
        return []
    differing = ", ".join(other)
    return [
        f"has other versions of {differing} than {first.host}: put this environment on a file system all nodes share"
    ]


def _gpus(facts: NodeFacts, site: Site) -> list[str]:
    expected = site.train.gpus_per_node
    if facts.gpus >= expected:
        return []
    return [
        f"found {facts.gpus} GPUs, expected {expected}: request them (gpus_per_node, gpu_type, partition of the site)"
    ]


def _network(facts: NodeFacts, first: NodeFacts, nodes: Sequence[str]) -> list[str]:
    if facts.fault:
        return [facts.fault]
    if len(nodes) > 1 and network.is_loopback(facts.address) and facts.machine != first.machine:
        return ["uses loopback, which other nodes cannot reach: set the site's interface"]
    return []


def _better_interface(facts: Sequence[NodeFacts], site: Site) -> str:
    """Return a fast network that all nodes have and none uses; empty if there is none, or the site names one."""
    common = set.intersection(*(set(each.interfaces) for each in facts)) if len(facts) > 1 else set()
    fast = sorted(name for name in common if name.startswith(_FAST_NETWORKS))
    in_use = {each.interface for each in facts}
    return "" if site.interface or any(name.startswith(_FAST_NETWORKS) for name in in_use) else "".join(fast[:1])


def _files(facts: NodeFacts) -> list[str]:
    if not facts.missing:
        return []
    return [f"does not see the files of {', '.join(facts.missing)}: put --work on a file system all nodes share"]


def _clock(ahead: float) -> list[str]:
    if abs(ahead) <= _SKEW_SECONDS:
        return []
    return [f"its clock is off by {ahead:+.1f} s, so times in logs mislead: ask the site's staff to fix NTP there"]


def _speed(speed: float, fastest: float) -> list[str]:
    if speed >= _SLOW * fastest:
        return []
    return [
        f"less than half the speed of the fastest ({fastest:.0f} MB/s): --exclude it, or report it to the site's staff"
    ]


def lines(findings: Sequence[NodeFinding]) -> list[str]:
    """Return the table, one line per node."""
    return text_table(HEADER, [(*one.cells, one.verdict, "; ".join(one.fixes)) for one in findings])


def by_node(nodes: Sequence[str], ranks_per_node: int, speeds: Sequence[float]) -> dict[str, float]:
    """Return the slowest rank's speed of each node. Ranks fill the nodes one after another."""
    groups = [speeds[n * ranks_per_node : (n + 1) * ranks_per_node] for n in range(len(nodes))]
    return {node: min(group) for node, group in zip(nodes, groups, strict=True) if group}
