"""Where a training's time went, rank by rank, and who waited for whom: from the flight recorder."""

from collections.abc import Sequence

from jobs.errors import InputError
from jobs.run_dir import RunDir
from jobs.train.telemetry.flight_recorder import RankTimes, read_times, straggler

_ROW = "{:>4}  {:>11}  {:>9}  {:>16}  {:>10}  {:>21}"


def lines(run: RunDir) -> list[str]:
    """Return the report of a run as lines of text; raise InputError where it has not trained."""
    times = read_times(run.logs)
    if not times:
        raise InputError(f"run {run.run_id}: found no record of a training in {run.logs}; train it first")
    text = [_ROW.format("rank", "images", "images/s", "waits for input", "computes", "waits in allreduce")]
    text += [_row(rank) for rank in times]
    text += ["", _verdict(times)]
    if run.report_file.exists():
        text.append(f"the result as a page: {run.report_file}")
    return text


def _row(rank: RankTimes) -> str:
    shares = [f"{part / rank.seconds:.1%}" for part in (rank.input, rank.compute, rank.allreduce)]
    return _ROW.format(rank.rank, f"{rank.images:,}", f"{rank.images / rank.seconds:,.0f}", *shares)


def _verdict(times: Sequence[RankTimes]) -> str:
    found = straggler(times)
    if found is None:
        if len(times) > 1:
            return "no straggler: the ranks wait for each other about equally long"
        waits = times[0].input / times[0].seconds
        return f"one rank, which waited for input {waits:.1%} of its time"
    rank, why = found
    return f"straggler: rank {rank.rank}, which spends its time {why}; the others wait for it in allreduce"
