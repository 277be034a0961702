"""What a run used of what its jobs requested, and what to request for the next one."""

from collections.abc import Iterator
from math import ceil

from deploy.slurm.site import JOB_STAGES, Resources, Site, TrainResources
from jobs.errors import InputError
from jobs.run_dir import RunDir
from pipelines.history import usage
from pipelines.history.usage import Request, StageUsage, usage_of
from pipelines.slurm.jobs import STAGES_OF, SlurmJobs

# More than was used, as the next run may need more, and a job that exceeds its request is ended.
_MORE_MEMORY, _MORE_TIME = 1.25, 1.5
_MORE_SECONDS = 120.0
_MORE_BYTES = 1 << 28  # of the job's own processes
_ROUND_SECONDS = 300
_GB = 1 << 30


def lines(run: RunDir) -> list[str]:
    """Return a table of what a run used, beside what its jobs requested if it was submitted; see `usage.lines`."""
    jobs = SlurmJobs(run)
    return usage.lines(run, requests(jobs.site()) if jobs.site_file.exists() else {})


def requests(site: Site) -> dict[str, Request]:
    """Return what the jobs of a site request, by the stage of the run."""
    found: dict[str, Request] = {}
    for job, stages in STAGES_OF.items():
        wanted = site.resources(job)
        request = Request(cpus=str(wanted.cpus or ""), memory=wanted.memory or "", time=wanted.time or "")
        if job == "prepare" and site.spark != "local":
            request = Request(time=request.time)  # of Spark, only the driver is recorded
        found |= dict.fromkeys(stages, request)
    return found


def as_measured(run: RunDir, site: Site) -> list[str]:
    """Return assignments, as `--site-set` takes them, that request what a run used and some more.

    Raises InputError for a run without a record of what it used.
    """
    used = {each.stage: each for each in usage_of(run)}
    assignments = []
    for job in JOB_STAGES:
        stages = [used[stage] for stage in STAGES_OF[job] if stage in used]
        if len(stages) < len(STAGES_OF[job]) or not all(run.record_file(stage).exists() for stage in STAGES_OF[job]):
            continue
        keys = ("time",) if job == "prepare" and site.spark != "local" else ("cpus", "memory", "time")
        wanted = _wanted(stages, site.resources(job))
        assignments += [f"{job}.{key}={value}" for key, value in wanted if key in keys]
    if not assignments:
        raise InputError(
            f"--as-measured {run.run_id}: found no record of what a finished stage used in {run.usage}, expected one; "
            "fix: name another run"
        )
    return assignments


def _wanted(stages: list[StageUsage], resources: Resources) -> Iterator[tuple[str, str]]:
    """Yield what a job should request whose stages used this much."""
    ranks, seconds = 1, sum(each.seconds for each in stages) * _MORE_TIME + _MORE_SECONDS
    if isinstance(resources, TrainResources):
        ranks = resources.ranks_per_node
        # Fewer ranks take longer; more may be faster or not.
        seconds = seconds * max(1.0, stages[0].ranks / (resources.nodes * ranks)) + resources.warn_seconds
    # Elsewhere others may have had the CPUs, so that a rank used fewer than it would.
    if all(each.in_jobs for each in stages):
        cpus = max(1, ceil(max(each.cpus for each in stages) - 0.1))
        yield "cpus", str(min(cpus, resources.cpus) if resources.cpus else cpus)
    used = max(each.private_bytes * ranks + each.shared_bytes for each in stages)
    yield "memory", f"{ceil((used * _MORE_MEMORY + _MORE_BYTES) / _GB)}G"
    yield "time", _time(seconds)


def _time(seconds: float) -> str:
    """Return a time limit in quotes, HH:MM:SS, as sbatch reads it: in whole units of five minutes."""
    minutes = ceil(seconds / _ROUND_SECONDS) * _ROUND_SECONDS // 60
    return f'"{minutes // 60:02}:{minutes % 60:02}:00"'
