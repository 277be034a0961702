"""What each stage of a run used: CPUs, memory, time. See `jobs.usage`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from jobs.flight_log import read_flights, sums
from jobs.run_dir import RunDir
from jobs.stage import STAGES
from jobs.text_table import text_table
from jobs.usage import Usage, read_usage
from jobs.words import counted, duration


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a stage may use of each node, as text; empty where nothing limits it."""

    cpus: str = ""
    memory: str = ""
    time: str = ""


@dataclass(frozen=True, kw_only=True)
class StageUsage:
    """What the processes of a stage used, one after another if it was started several times.

    `seconds`: of all starts together. `cpus`: used by the busiest rank, on average. `private_bytes`: the most that a
    rank held for itself, with the processes that it started. `shared_bytes`: the most that the ranks of a node share.
    `node_bytes`: the most that all ranks of a node held. `computing`: the share of the training's time in which the
    devices computed; None for other stages. `in_jobs`: whether all of it ran in Slurm jobs.
    """

    stage: str
    ranks: int
    starts: int
    seconds: float
    cpus: float
    private_bytes: int
    shared_bytes: int
    node_bytes: int
    in_jobs: bool
    computing: float | None = None


def usage_of(run: RunDir) -> list[StageUsage]:
    """Return what each stage of a run has used so far, in order; stages without a record are left out."""
    recorded = read_usage(run)
    by_stage = {stage: [each for each in recorded if each.stage == stage] for stage in STAGES}
    return [_stage_usage(run, stage, processes) for stage, processes in by_stage.items() if processes]


def _stage_usage(run: RunDir, stage: str, processes: Sequence[Usage]) -> StageUsage:
    ranks = sorted({each.rank for each in processes})
    first = [each for each in processes if each.rank == ranks[0]]
    hosts = {each.host for each in processes}
    return StageUsage(
        stage=stage,
        ranks=len(ranks),
        starts=len(first),
        seconds=sum(each.seconds for each in first),
        cpus=max(_cpus([each for each in processes if each.rank == rank]) for rank in ranks),
        private_bytes=max(each.private_bytes for each in processes),
        shared_bytes=max(each.shared_bytes for each in processes),
        node_bytes=max(_node_bytes([each for each in processes if each.host == host]) for host in hosts),
        in_jobs=all(each.job for each in processes),
        computing=_computing(run) if stage == "train" else None,
    )


def _cpus(processes: Sequence[Usage]) -> float:
    seconds = sum(each.seconds for each in processes)
    return sum(each.cpu_seconds for each in processes) / seconds if seconds else 0.0


def _node_bytes(processes: Sequence[Usage]) -> int:
    """Return the most that the ranks of one node held; what they share counts once."""
    private: dict[int, int] = {}
    for each in processes:
        private[each.rank] = max(private.get(each.rank, 0), each.private_bytes)
    return sum(private.values()) + max(each.shared_bytes for each in processes)


def _computing(run: RunDir) -> float | None:
    """Return the share of the ranks' time in which they computed; the rest is waiting for rows and for each other."""
    times = sums(read_flights(run.logs))
    seconds = sum(each.seconds for each in times)
    return sum(each.compute for each in times) / seconds if seconds else None


def lines(run: RunDir, requests: Mapping[str, Request]) -> list[str]:
    """Return a table of what a run used, beside what its jobs requested, after an empty line; or nothing."""
    used = usage_of(run)
    if not used:
        return []
    header = ("used", "CPUs per rank", "memory per node", "time", "computing")
    return ["", *text_table(header, list(_rows(used, requests)))]


def _rows(used: Sequence[StageUsage], requests: Mapping[str, Request]) -> Iterator[tuple[str, ...]]:
    for each in used:
        request = requests.get(each.stage, Request())
        starts = f" in {counted(each.starts, 'start')}" if each.starts > 1 else ""
        yield (
            each.stage,
            _beside(f"{each.cpus:.1f}", request.cpus),
            _beside(f"{each.node_bytes / 1e9:.2f} GB", request.memory),
            _beside(f"{duration(each.seconds)}{starts}", request.time),
            "" if each.computing is None else f"{each.computing:.0%}",
        )


def _beside(used: str, requested: str) -> str:
    return f"{used} of {requested}" if requested else used
