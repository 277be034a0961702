"""`idxtrain stragglers`: where training time went, rank by rank, and which rank the others waited for."""

from pathlib import Path

from jobs.errors import InputError
from jobs.flight_log import RankTimes, read_flights, sums, verdict
from jobs.run_dir import RunDir
from jobs.text_table import text_table

_HEADER = ("rank", "images", "images/s", "waits for input", "computes", "waits in allreduce")


def times_file(run: RunDir) -> Path:
    """Return the file of the first rank's times, which every run that trained has."""
    return run.logs / "flight.rank-0.jsonl"


def lines(run: RunDir) -> list[str]:
    """Return where a run's time went as lines of text; raise InputError where it has not trained."""
    times = sums(read_flights(run.logs))
    if not times:
        raise InputError(f"run {run.run_id}: found no record of a training in {run.logs}; fix: train it first")
    return [*text_table(_HEADER, [_row(rank) for rank in times], right=range(len(_HEADER))), "", verdict(times)]


def _row(rank: RankTimes) -> tuple[str, ...]:
    shares = (f"{seconds / rank.seconds:.1%}" for seconds in (rank.input, rank.compute, rank.allreduce))
    return (str(rank.rank), f"{rank.images:,}", f"{rank.images / rank.seconds:,.0f}", *shares)
