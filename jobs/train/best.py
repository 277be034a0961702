"""The best validation of a training: which model is kept, and whether training stops early."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from math import inf, isfinite
from typing import Any

from jobs.train.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best validation so far, after `step` updates: incorrect rows, mean loss, and rows in all."""

    step: int
    errors: int
    loss: float
    count: int

    @property
    def validation(self) -> dict[str, Any]:
        """The figures as `jobs.train.validation` returns them."""
        return {
            "accuracy": 1 - self.errors / self.count,
            "errors": self.errors,
            "loss": self.loss,
            "count": self.count,
        }

    @staticmethod
    def from_json(fields: Any) -> "Best":
        """Return a Best from its fields. Raises KeyError, TypeError or ValueError if they are not of one."""
        step, errors, count = (int(fields[name]) for name in ("step", "errors", "count"))
        return Best(step=step, errors=errors, loss=float(fields["loss"]), count=count)

    def to_numbers(self) -> list[float]:
        """Return the fields as numbers, which ranks can exchange; `from_numbers` is the inverse."""
        return list(astuple(self))

    @staticmethod
    def from_numbers(numbers: Sequence[float]) -> "Best":
        """Return a Best from the numbers of `to_numbers`."""
        errors, loss, count = numbers[1:]
        return Best(step=int(numbers[0]), errors=int(errors), loss=loss, count=int(count))


def better(best: Best | None, step: int, validation: dict[str, Any], config: TrainConfig) -> Best | None:
    """Return the better of the best so far and a validation after `step` updates; of equal ones, the earlier.

    None if there is neither: the validation split is empty. All ranks decide alike: they have the same figures.
    """
    if not validation["count"]:
        return best
    now = Best(step=step, errors=validation["errors"], loss=validation["loss"], count=validation["count"])
    return now if best is None or _rank(now, config) < _rank(best, config) else best


def stops_early(best: Best | None, step: int, validation_steps: int, config: TrainConfig) -> bool:
    """Return whether `train.early_stopping` ends the training after `step` updates.

    `validation_steps`: from one validation to the next.
    """
    if config.early_stopping is None or best is None:
        return False
    return step // validation_steps - best.step // validation_steps >= config.early_stopping


def _rank(best: Best, config: TrainConfig) -> tuple[float, float]:
    """Return what is smaller for a better validation. A loss that is not a number is worse than any other."""
    loss = best.loss if isfinite(best.loss) else inf
    return (loss, best.errors) if config.best_by == "loss" else (best.errors, loss)
