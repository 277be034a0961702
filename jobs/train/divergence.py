"""Errors of a training that diverged: losses or weights that are not finite, gradients too large to be exact."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.errors import InputError
from jobs.train.compute import exact
from jobs.train.telemetry.measure import Measurement

_FIX = "fix: lower train.learning_rate or raise train.warmup_fraction"


def require_sound(result: Measurement, step: int) -> None:
    """Raise InputError if a measurement, taken after `step` updates, shows that the training diverged."""
    first = step - len(result.losses)
    finite = np.isfinite(result.losses)
    if not finite.all():
        loss = result.losses[int(np.argmin(finite))]
        raise InputError(f"train: step {first + int(np.argmin(finite))}: found loss {loss}, expected a number; {_FIX}")
    if not result.is_finite:
        raise _not_finite(step)
    if result.gradient_bounds.max() >= exact.LIMIT:
        raise InputError(
            f"train: step {first + int(np.argmax(result.gradient_bounds >= exact.LIMIT))}: found gradients up to "
            f"{result.gradient_bounds.max():.3g} in sum, expected less than {exact.LIMIT:g}, the exact range of "
            "train.deterministic=true; fix: lower train.learning_rate or set train.deterministic=false"
        )


def require_finite(arrays: Mapping[str, NDArray[Any]], step: int) -> None:
    """Raise InputError if a state after `step` updates is not finite, which the next loss would show."""
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise _not_finite(step)


def _not_finite(step: int) -> InputError:
    return InputError(
        f"train: step {step}: found weights or outputs that are not finite after the update, expected numbers; {_FIX}"
    )
