"""The flight recorder: where each rank's time goes, graph call by graph call."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median


@dataclass(frozen=True, kw_only=True)
class Flight:
    """One graph call on one rank. `step`: updates done after it. `images`: this rank's.

    `input`, `compute`, `allreduce`: seconds waiting for rows, computing, and waiting in allreduce. Only the allreduce
    time after the last gradient counts: what overlaps with the backward pass costs nothing.
    """

    step: int
    images: int
    input: float
    compute: float
    allreduce: float


class FlightRecorder:
    """Writes a rank's flights to `logs/flight.rank-N.jsonl`, a JSON line per graph call."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def record(self, flight: Flight) -> None:
        """Write one graph call."""
        self._file.write(json.dumps({key: round(value, 6) for key, value in asdict(flight).items()}) + "\n")


@dataclass(frozen=True, kw_only=True)
class RankTimes:
    """A rank's images and seconds over a training; see `Flight`."""

    rank: int
    images: int
    input: float
    compute: float
    allreduce: float

    @property
    def seconds(self) -> float:
        """The rank's total time."""
        return self.input + self.compute + self.allreduce


def read_times(logs: Path) -> list[RankTimes]:
    """Return the sums over a run's flight records, in the order of the ranks.

    The first call, which builds the graph, does not count unless it is the only one. A torn line, which a killed rank
    may leave, is skipped.
    """
    files = {int(path.name.split("-")[1].split(".")[0]): path for path in logs.glob("flight.rank-*.jsonl")}
    times = []
    for rank, path in sorted(files.items()):
        flights = [flight for line in path.read_text(encoding="utf-8").splitlines() if (flight := _parse(line))]
        counted = flights[1:] or flights
        if counted:
            names = ("images", "input", "compute", "allreduce")
            times.append(RankTimes(rank=rank, **{name: sum(getattr(f, name) for f in counted) for name in names}))
    return times


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
