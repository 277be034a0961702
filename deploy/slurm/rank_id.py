"""A rank's place among the others, from what Slurm tells a task: see srun(1), OUTPUT ENVIRONMENT VARIABLES."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_TASKS = re.compile(r"(\d+)(?:\(x(\d+)\))?")


@dataclass(frozen=True)
class RankId:
    """A rank's place. `local`: on its node; `cross`: among the ranks with the same local rank on other nodes.

    Horovod counts so: https://horovod.readthedocs.io/en/stable/concepts.html.
    """

    host: str
    rank: int
    ranks: int
    local_rank: int
    local_size: int
    cross_rank: int
    cross_size: int

    def environment(self) -> dict[str, str]:
        """Return the place as Horovod reads it."""
        return {
            "HOROVOD_HOSTNAME": self.host,
            "HOROVOD_RANK": str(self.rank),
            "HOROVOD_SIZE": str(self.ranks),
            "HOROVOD_LOCAL_RANK": str(self.local_rank),
            "HOROVOD_LOCAL_SIZE": str(self.local_size),
            "HOROVOD_CROSS_RANK": str(self.cross_rank),
            "HOROVOD_CROSS_SIZE": str(self.cross_size),
        }


def place(environment: Mapping[str, str]) -> RankId:
    """Return a task's place; raises KeyError or ValueError where these variables are not a step's."""
    node, local_rank = int(environment["SLURM_NODEID"]), int(environment["SLURM_LOCALID"])
    tasks = tasks_per_node(environment["SLURM_STEP_TASKS_PER_NODE"])
    having = [number for number, count in enumerate(tasks) if count > local_rank]
    return RankId(
        host=environment["SLURMD_NODENAME"],
        rank=int(environment["SLURM_PROCID"]),
        ranks=sum(tasks),
        local_rank=local_rank,
        local_size=tasks[node],
        cross_rank=having.index(node),
        cross_size=len(having),
    )


def tasks_per_node(text: str) -> list[int]:
    """Return how many tasks each node has: "2(x3),1" are 2, 2, 2 and 1. Raises ValueError for other text."""
    found: list[int] = []
    for part in text.split(","):
        match = _TASKS.fullmatch(part)
        if match is None:
            raise ValueError(f"found {text!r}, expected tasks per node as in 2(x3),1")
        found += [int(match[1])] * int(match[2] or 1)
    return found


def hosts(nodes: Sequence[str], ranks_per_node: int, ranks: int) -> dict[str, int]:
    """Return how many of the ranks each node gets where they fill node by node; raise ValueError for too few nodes."""
    found = {}
    for number, node in enumerate(nodes):
        share = min(ranks_per_node, ranks - number * ranks_per_node)
        if share > 0:
            found[node] = share
    if sum(found.values()) != ranks:
        raise ValueError(f"found {len(nodes)} nodes of {ranks_per_node} ranks, expected room for {ranks}")
    return found
