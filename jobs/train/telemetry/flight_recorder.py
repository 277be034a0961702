"""The flight recorder: where each rank's time goes, call by call."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median


@dataclass(frozen=True)
class Flight:
    """One call of the graph on one rank: seconds spent waiting for rows, computing, and waiting in allreduce.

    Allreduce is what is left of it when all gradients are computed: the part that hides behind the backward pass costs
    nothing. `images`: of this rank.
    """

    step: int
    images: int
    input: float
    compute: float
    allreduce: float


class Recorder:
    """Writes a rank's flights to `logs/flight.rank-N.jsonl`, a JSON line a call."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def record(self, flight: Flight) -> None:
        """Write one call."""
        self._file.write(json.dumps({key: round(value, 6) for key, value in asdict(flight).items()}) + "\n")


@dataclass(frozen=True)
class RankTimes:
    """A rank's sums over a training."""

    rank: int
    images: int
    input: float
    compute: float
    allreduce: float

    @property
    def seconds(self) -> float:
        """All of its time."""
        return self.input + self.compute + self.allreduce


def read_times(logs: Path) -> list[RankTimes]:
    """Sum up the records in a run's logs, one entry a rank.

    The first call, which builds the graph, is left out where there are others. A torn line, of a rank that was
    killed, is passed over.
    """
    found = []
    for path in sorted(logs.glob("flight.rank-*.jsonl"), key=lambda p: int(p.name.split("-")[1].split(".")[0])):
        flights = [flight for line in path.read_text(encoding="utf-8").splitlines() if (flight := _parse(line))]
        kept = flights[1:] or flights
        if kept:
            rank = int(path.name.split("-")[1].split(".")[0])
            sums = (sum(getattr(f, name) for f in kept) for name in ("images", "input", "compute", "allreduce"))
            found.append(RankTimes(rank, *sums))
    return found


def _parse(line: str) -> Flight | None:
    try:
        return Flight(**json.loads(line))
    except (ValueError, TypeError):
        return None


def straggler(times: Sequence[RankTimes]) -> tuple[RankTimes, str] | None:
    """Return the rank that the others wait for, and what it spends its time on; None where nobody waits for one.

    Ranks meet at every allreduce, so the slowest is the one that waits there least. It counts as a straggler where the
    others wait, in the median, at least a twentieth of their time longer than it does.
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
