"""Where a training's time went, rank by rank: the records in `logs/flight.rank-N.jsonl`, a JSON line per graph call.

`jobs.train.telemetry.flight_recorder` writes them. Imports nothing heavy.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median


@dataclass(frozen=True, kw_only=True)
class _Spent:
    """Images of a rank, and the seconds it took.

    `input`, `compute`, `allreduce`: seconds waiting for rows, computing, and waiting in allreduce. Only the allreduce
    time after the last gradient counts: what overlaps with the backward pass costs nothing.
    """

    images: int
    input: float
    compute: float
    allreduce: float

    @property
    def seconds(self) -> float:
        """All of the time, the wait for rows included."""
        return self.input + self.compute + self.allreduce


@dataclass(frozen=True, kw_only=True)
class Flight(_Spent):
    """One graph call on one rank. `step`: updates done after it."""

    step: int


@dataclass(frozen=True, kw_only=True)
class RankTimes(_Spent):
    """What a rank spent over a training."""

    rank: int


def read_flights(logs: Path) -> dict[int, list[Flight]]:
    """Return each rank's graph calls, in the order of the ranks; ranks without any are left out.

    The first call, which builds the graph, is left out unless it is the only one. A torn line, which a killed rank may
    leave, is skipped.
    """
    files = {int(path.name.split("-")[1].split(".")[0]): path for path in logs.glob("flight.rank-*.jsonl")}
    calls = {
        rank: [flight for line in path.read_text(encoding="utf-8").splitlines() if (flight := _parse(line))]
        for rank, path in sorted(files.items())
    }
    return {rank: flights[1:] or flights for rank, flights in calls.items() if flights}


def sums(flights: Mapping[int, Sequence[Flight]]) -> list[RankTimes]:
    """Return each rank's sums over its graph calls, as from `read_flights`."""
    names = ("images", "input", "compute", "allreduce")
    return [
        RankTimes(rank=rank, **{name: sum(getattr(call, name) for call in calls) for name in names})
        for rank, calls in flights.items()
    ]


def _parse(line: str) -> Flight | None:
    try:
        return Flight(**json.loads(line))
    except (ValueError, TypeError):
        return None


def straggler(times: Sequence[RankTimes]) -> tuple[RankTimes, str] | None:
    """Return the rank that the others wait for, and what it spends its time on; None if there is no such rank.

    All ranks meet at every allreduce, so the slowest is the one that waits there least. It is a straggler if the median
    of the others waits at least 5 % of its time longer.
    """
    if len(times) < 2:
        return None
    slowest = min(times, key=lambda t: t.allreduce / t.seconds)
    others = [t for t in times if t is not slowest]
    waits = median(t.allreduce / t.seconds for t in others) - slowest.allreduce / slowest.seconds
    if waits < 0.05:
        return None
    more_input = slowest.input - median(t.input for t in others)
    more_compute = slowest.compute - median(t.compute for t in others)
    return slowest, "waiting for input" if more_input > more_compute else "computing"


def verdict(times: Sequence[RankTimes]) -> str:
    """Return in a line which rank the others wait for; `times`: of at least one rank."""
    slowest = straggler(times)
    if slowest is not None:
        rank, activity = slowest
        return f"straggler: rank {rank.rank}, which spends its time {activity}; the others wait for it in allreduce"
    if len(times) > 1:
        return "no straggler: the ranks wait for each other about equally long"
    return f"one rank, which waited for input {times[0].input / times[0].seconds:.1%} of its time"
