"""Being asked to stop: a signal to any rank stops all of them at the same step, after a checkpoint."""

from types import FrameType

from jobs import stop_signals
from jobs.errors import ResumableError


class StopRequest:
    """Remembers that a signal came. The ranks agree on where to stop at the end of their current call of the graph."""

    def __init__(self) -> None:
        self.requested = False
        stop_signals.handle(self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True


def stopped(step: int, total: int, run_id: str) -> ResumableError:
    """Return the error that ends a rank which was asked to stop."""
    return ResumableError(
        f"train: stopped at step {step} of {total} as asked; `idxtrain run --run-id {run_id}` goes on"
    )
