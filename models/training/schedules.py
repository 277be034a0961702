"""Learning-rate schedules: the rate of every step of a training, computed beforehand, found by name."""

from collections.abc import Callable

import numpy as np


def rates(name: str, steps: int, peak: float, warmup: float, final: float) -> np.ndarray:
    """Return the learning rate of each step: float32 [steps].

    `peak`: the highest rate. `warmup`: the share of all steps, in [0, 1), in which it rises to the peak, linearly from
    near zero (one-cycle: from peak / 25). `final`: what the schedule ends at, as a share of the peak.
    """
    rising = round(steps * warmup)
    start = 1 / 25 if name == "one-cycle" else 0.0
    up = start + (1 - start) * np.arange(1, rising + 1) / max(rising, 1)
    down = _SHAPES[name](np.arange(steps - rising) / max(steps - rising - 1, 1), final)
    return (peak * np.concatenate([up, down])).astype(np.float32)


def _constant(progress: np.ndarray, final: float) -> np.ndarray:
    return np.ones_like(progress)


def _step(progress: np.ndarray, final: float) -> np.ndarray:
    # Three equal stairs from 1 to `final`, each lower by the same factor.
    return final ** (np.minimum(np.floor(progress * 3), 2) / 2)


def _cosine(progress: np.ndarray, final: float) -> np.ndarray:
    # Loshchilov and Hutter, "SGDR" (2017), equation 5, without restarts.
    return final + (1 - final) * (1 + np.cos(np.pi * progress)) / 2


def _linear(progress: np.ndarray, final: float) -> np.ndarray:
    return 1 + (final - 1) * progress


_SHAPES: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "constant": _constant,
    "step": _step,
    "cosine": _cosine,
    "linear": _linear,
    "one-cycle": _cosine,  # Smith and Topin, "Super-convergence" (2018): up, then down to almost nothing
}
