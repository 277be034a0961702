"""A rank's numbers, from what Slurm gives a task: see srun(1), OUTPUT ENVIRONMENT VARIABLES."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

_TASKS = re.compile(r"(\d+)(?:\(x(\d+)\))?")


@dataclass(frozen=True, kw_only=True)
class RankId:
    """The numbers that identify a rank, as Horovod defines them. All ranks count from 0.

    `host`: the node's name. `rank`: among all `ranks` of the training. `local_rank`: among the `local_size` ranks of
    its node. `cross_rank`: among the `cross_size` ranks that have the same local rank on their nodes.

    https://horovod.readthedocs.io/en/stable/concepts.html
    """

    host: str
    rank: int
    ranks: int
    local_rank: int
    local_size: int
    cross_rank: int
    cross_size: int

    @classmethod
    def from_slurm(cls, environment: Mapping[str, str]) -> Self:
        """Return the numbers of a Slurm task; raise KeyError or ValueError if the variables are not a step's."""
        node, local_rank = int(environment["SLURM_NODEID"]), int(environment["SLURM_LOCALID"])
        tasks = tasks_per_node(environment["SLURM_STEP_TASKS_PER_NODE"])
        nodes_with_local_rank = [number for number, count in enumerate(tasks) if count > local_rank]
        return cls(
            host=environment["SLURMD_NODENAME"],
            rank=int(environment["SLURM_PROCID"]),
            ranks=sum(tasks),
            local_rank=local_rank,
            local_size=tasks[node],
            cross_rank=nodes_with_local_rank.index(node),
            cross_size=len(nodes_with_local_rank),
        )

    def environment(self) -> dict[str, str]:
        """Return the variables from which Horovod reads these numbers."""
        return {
            "HOROVOD_HOSTNAME": self.host,
            "HOROVOD_RANK": str(self.rank),
            "HOROVOD_SIZE": str(self.ranks),
            "HOROVOD_LOCAL_RANK": str(self.local_rank),
            "HOROVOD_LOCAL_SIZE": str(self.local_size),
            "HOROVOD_CROSS_RANK": str(self.cross_rank),
            "HOROVOD_CROSS_SIZE": str(self.cross_size),
        }


def tasks_per_node(text: str) -> list[int]:
    """Return the number of tasks of each node: "2(x3),1" is 2, 2, 2 and 1. Raises ValueError for other text."""
    counts: list[int] = []
    for item in text.split(","):
        match = _TASKS.fullmatch(item)
        if match is None:
            raise ValueError(f"found {text!r}, expected tasks per node as in 2(x3),1")
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


def ranks_per_host(nodes: Sequence[str], ranks_per_node: int, ranks: int) -> dict[str, int]:
    """Return the number of ranks of each node, filled one after another; raise ValueError for too few nodes."""
    counts = {}
    for number, node in enumerate(nodes):
        share = min(ranks_per_node, ranks - number * ranks_per_node)
        if share > 0:
            counts[node] = share
    if sum(counts.values()) != ranks:
        raise ValueError(f"found {len(nodes)} nodes of {ranks_per_node} ranks, expected room for {ranks}")
    return counts
