"""The runs of a report, each with its result."""

from dataclasses import dataclass

from jobs.metrics import Metrics, read_metrics
from jobs.run_dir import RunDir


@dataclass(frozen=True)
class Result:
    """A run that was evaluated."""

    run: RunDir
    metrics: Metrics

    @property
    def name(self) -> str:
        """What the report calls the run: its ID."""
        return self.run.run_id


def evaluated(run: RunDir) -> Result:
    """Return a run with its result; raise InputError where it was not evaluated."""
    return Result(run, read_metrics(run))
