"""Stopping on request: a signal to any rank stops all ranks at the same step, after a checkpoint."""

from types import FrameType

from jobs import stop_signals
from jobs.errors import ResumableError
from jobs.run_dir import RunDir


class StopRequest:
    """Remembers a stop signal. The ranks agree on the step to stop at when they next measure."""

    def __init__(self) -> None:
        self.requested = False
        stop_signals.handle(self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.requested = True


def stopped(step: int, total: int, run: RunDir) -> ResumableError:
    """Return the error that ends a rank after a request to stop."""
    return ResumableError(f"train: stopped on request at step {step:,} of {total:,}; {run.resumed_by} resumes it")
