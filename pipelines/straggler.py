"""Where training time went, rank by rank, and which rank the others waited for: from the flight recorder."""

from collections.abc import Sequence
from pathlib import Path

from jobs.errors import InputError
from jobs.run_dir import RunDir
from jobs.text_table import text_table
from jobs.train.telemetry.flight_recorder import RankTimes, read_times, straggler

_HEADER = ("rank", "images", "images/s", "waits for input", "computes", "waits in allreduce")


def times_file(run: RunDir) -> Path:
    """Return the file of the first rank's times, which every run that trained has."""
    return run.logs / "flight.rank-0.jsonl"


def lines(run: RunDir) -> list[str]:
    """Return the report of a run as lines of text; raise InputError where it has not trained."""
    times = read_times(run.logs)
    if not times:
        raise InputError(f"run {run.run_id}: found no record of a training in {run.logs}; fix: train it first")
    text = text_table(_HEADER, [_row(rank) for rank in times], right=range(len(_HEADER)))
    text += ["", _verdict(times)]
    if run.report_file.exists():
        text.append(f"test result: {run.report_file}")
    return text


def _row(rank: RankTimes) -> tuple[str, ...]:
    shares = (f"{seconds / rank.seconds:.1%}" for seconds in (rank.input, rank.compute, rank.allreduce))
    return (str(rank.rank), f"{rank.images:,}", f"{rank.images / rank.seconds:,.0f}", *shares)


def _verdict(times: Sequence[RankTimes]) -> str:
    slowest = straggler(times)
    if slowest is not None:
        rank, activity = slowest
        return f"straggler: rank {rank.rank}, which spends its time {activity}; the others wait for it in allreduce"
    if len(times) > 1:
        return "no straggler: the ranks wait for each other about equally long"
    return f"one rank, which waited for input {times[0].input / times[0].seconds:.1%} of its time"
