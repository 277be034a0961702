"""Learning-rate schedules by name: the rate is a function of the step."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Rates:
    """The learning rate of each step, computed on demand, as a training may have billions of steps.

    `name`: of the schedule. `peak`: the highest rate. `warmup_fraction`: the share of all steps, in [0, 1), in which
    the rate rises linearly to the peak, from near 0 (one-cycle: from peak / 25). `final_fraction`: the last rate as a
    share of the peak. Raises KeyError for an unknown name.
    """

    def __init__(self, name: str, steps: int, peak: float, warmup_fraction: float, final_fraction: float) -> None:
        self._shape, self._steps, self._peak, self._final = _SHAPES[name], steps, peak, final_fraction
        self._rising = round(steps * warmup_fraction)
        self._start = 1 / 25 if name == "one-cycle" else 0.0

    def __len__(self) -> int:
        """Return the number of steps."""
        return self._steps

    def __getitem__(self, steps: slice) -> NDArray[Any]:
        """Return the rates of consecutive steps: float32 [n]."""
        first, last, _ = steps.indices(self._steps)
        turn = min(max(first, self._rising), last)
        up = self._start + (1 - self._start) * np.arange(first + 1, turn + 1) / max(self._rising, 1)
        falling = np.arange(turn, last) - self._rising
        down = self._shape(falling / max(self._steps - self._rising - 1, 1), self._final)
        return (self._peak * np.concatenate([up, down])).astype(np.float32)


def _constant(progress: NDArray[Any], final: float) -> NDArray[Any]:
    return np.ones_like(progress)


def _step(progress: NDArray[Any], final: float) -> NDArray[Any]:
    # Three steps of equal length from 1 to `final`, each lower by the same factor.
    return final ** (np.minimum(np.floor(progress * 3), 2) / 2)


def _cosine(progress: NDArray[Any], final: float) -> NDArray[Any]:
    # Loshchilov and Hutter, "SGDR" (2017), equation 5, without restarts.
    return final + (1 - final) * (1 + np.cos(np.pi * progress)) / 2


def _linear(progress: NDArray[Any], final: float) -> NDArray[Any]:
    return 1 + (final - 1) * progress


_SHAPES: dict[str, Callable[[NDArray[Any], float], NDArray[Any]]] = {
    "constant": _constant,
    "step": _step,
    "cosine": _cosine,
    "linear": _linear,
    "one-cycle": _cosine,  # Smith and Topin, "Super-convergence" (2018): up, then down to almost 0
}
