"""How long a training will still take, from the wall time of what it has done."""

import time
from collections.abc import Callable

# Of the time of a training step on the same images, before the first validation: a forward pass is a third of the work.
_VALIDATION_SHARE = 1 / 3


class TimeLeft:
    """Estimates the seconds until the last validation: the steps that are left, and the validations among them.

    The first graph call builds the graph, so it does not count. A validation is expected to take as long as the last
    one, with its checkpoint.
    """

    def __init__(
        self,
        steps: int,
        validation_steps: int,
        validation_in_steps: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin. `steps`: of the whole training. `validation_steps`: from one validation to the next.

        `validation_in_steps`: the rows of the validation split, divided by those of a training step.
        """
        self._steps, self._validation_steps = steps, validation_steps
        self._validation_share = _VALIDATION_SHARE * validation_in_steps
        self._clock = clock
        self._mark: tuple[float, int] | None = None  # when the last graph call or validation ended, and the step
        self._seconds, self._timed_steps = 0.0, 0
        self._validation: float | None = None

    def trained(self, step: int) -> None:
        """Count a graph call that ended after `step` updates."""
        now = self._clock()
        if self._mark is not None:
            self._seconds += now - self._mark[0]
            self._timed_steps += step - self._mark[1]
        self._mark = now, step

    def validated(self, step: int) -> None:
        """Count a validation that has just ended, after `step` updates."""
        now = self._clock()
        if self._mark is not None:
            self._validation = now - self._mark[0]
        self._mark = now, step

    def seconds(self, step: int) -> float | None:
        """Return the estimate after `step` updates; None before the second graph call has ended."""
        if not self._timed_steps:
            return None
        per_step = self._seconds / self._timed_steps
        validation = self._validation_share * per_step if self._validation is None else self._validation
        validations = -(-self._steps // self._validation_steps) - step // self._validation_steps
        return (self._steps - step) * per_step + validations * validation
