"""How far a training is: its step, speed, last validation, and the time that is left."""

import json
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from jobs import training_log
from jobs.run_dir import RunDir
from jobs.words import duration


@dataclass(frozen=True, kw_only=True)
class TrainingProgress:
    """`step` of `steps`: updates done. `validation`: the last accuracy. None for what is not known.

    `seconds_left`: until the last validation, from now on.
    """

    step: int
    steps: int | None = None
    images_per_second: float | None = None
    validation: float | None = None
    seconds_left: float | None = None

    def __str__(self) -> str:
        """Return the progress in a few words."""
        words = [f"step {self.step:,}{f' of {self.steps:,}' if self.steps else ''}"]
        if self.images_per_second is not None:
            words.append(f"{self.images_per_second:,.0f} images/s")
        if self.validation is not None:
            words.append(f"validation {self.validation:.4f}")
        if self.seconds_left is not None:
            words.append(f"{duration(self.seconds_left)} left")
        return ", ".join(words)


def training_progress(run: RunDir, *, is_running: bool) -> TrainingProgress | None:
    """Return how far a run's training is, by its log and rank 0's heartbeat; None before the first measurement."""
    try:
        entries = list(training_log.read(run.curve_file))
    except OSError:
        return None
    measured = next((each for each in reversed(entries) if each["kind"] == "train"), None)
    if measured is None:
        return None
    validated: dict[str, Any] = next((each for each in reversed(entries) if each["kind"] == "validation"), {})
    at, left = _number(measured, "time"), _number(measured, "seconds_left")
    steps = _number(measured, "steps")
    step = max(each["step"] for each in entries)
    return TrainingProgress(
        step=max(step, _heartbeat(run, at)) if is_running else step,
        steps=None if steps is None else int(steps),
        images_per_second=_number(measured, "images_per_second"),
        validation=_number(validated, "accuracy"),
        seconds_left=max(0.0, left - (time.time() - at)) if is_running and left is not None and at else None,
    )


def _heartbeat(run: RunDir, since: float | None) -> int:
    """Return the step of rank 0's heartbeat, 0 if there is none since then: an older one is of an earlier start."""
    with suppress(OSError, ValueError):
        beat = json.loads((run.heartbeats / "rank-0.json").read_text(encoding="utf-8"))
        if isinstance(beat, dict) and type(beat.get("step")) is int and since and (_number(beat, "time") or 0) > since:
            return int(beat["step"])
    return 0


def _number(values: dict[str, Any], key: str) -> float | None:
    value = values.get(key)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
