"""How long an epoch would take on N ranks, from the plan of a training and the measured speed of its step.

A step on W ranks takes the time of its rows on one rank, which is a + b × rows, and that of an allreduce. A ring
allreduce of n bytes sends 2 (W − 1) messages, n / W bytes each, one after another (Patarasu and Yuan 2009).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jobs import step_speed
from jobs.run_dir import Work
from jobs.step_speed import StepSpeed, StepSpeeds
from jobs.words import counted
from pipelines.plan import TrainingPlan

_CLASSES = 10  # assumed where only prepare will count them
_WORTH = 0.97  # more ranks have to take less than this share of an epoch's time


@dataclass(frozen=True, kw_only=True)
class EpochSize:
    """What an epoch consists of. `validations`: per epoch, 1 or less."""

    steps: int
    batch_size: int
    validation_rows: int
    validations: float = 1.0


def size_of(plan: TrainingPlan) -> EpochSize:
    """Return what an epoch of a planned training consists of."""
    return EpochSize(
        steps=plan.steps_per_epoch,
        batch_size=plan.batch_size,
        validation_rows=sum(plan.shards["validation"]),
        validations=plan.steps_per_epoch / plan.validation_steps,
    )


def spec_of(plan: TrainingPlan) -> dict[str, Any]:
    """Return what `jobs.train.measure_step` reads, to measure the step of a planned training."""
    height, width, channels = (*plan.row_shape, 1)[:3]
    return {
        "train": plan.config.model_dump(mode="json"),
        "batch_size": plan.batch_size,
        "shape": [height, width, channels],
        "classes": len(plan.labels.training.labels) if plan.labels else _CLASSES,
        "pixels": plan.pixels,
    }


def key_of(plan: TrainingPlan) -> str:
    """Return the name of a planned training's kind of step."""
    return step_speed.key(plan.config, plan.batch_size, plan.row_shape, plan.pixels)


@dataclass(frozen=True, kw_only=True)
class EpochForecast:
    """One epoch on N ranks. `is_measured`: whether the step was measured on that number of ranks."""

    ranks: int
    seconds: float
    is_measured: bool


def forecast(size: EpochSize, speeds: StepSpeeds, wanted: Iterable[int] = ()) -> list[EpochForecast]:
    """Return forecasts for each measured number of ranks, and for those `wanted` that follow from the measured ones.

    On this machine no others follow: there, more ranks share the same CPUs. On a site, each rank has its own.
    """
    measured = {step.ranks: step for step in speeds.steps}
    largest = max(speeds.steps, key=lambda step: step.ranks)
    others = [] if speeds.site is None or largest.ranks == 1 else [ranks for ranks in wanted if ranks not in measured]
    forecasts = [_epoch(size, step.ranks, step.seconds, step, is_measured=True) for step in speeds.steps]
    forecasts += [
        _epoch(size, ranks, step_seconds(largest, ranks, size.batch_size), largest, is_measured=False)
        for ranks in others
        if ranks <= size.batch_size
    ]
    return sorted(forecasts, key=lambda each: each.ranks)


def step_seconds(step: StepSpeed, ranks: int, batch_size: int) -> float:
    """Return the seconds of a step on another number of ranks than the one it was measured on, of two or more."""
    rows = -(-batch_size // ranks)
    computed = step.seconds - step.waited
    per_row = max(0.0, computed - step.fewer_seconds) / max(1, step.rows - step.fewer_rows)
    messages = 2 * (step.ranks - 1)
    per_message = step.latency / messages
    per_byte = max(0.0, step.gradient_seconds - step.latency) / (messages / step.ranks * max(1, step.gradient_bytes))
    sent = 2 * (ranks - 1) * (per_message + per_byte * step.gradient_bytes / ranks)
    return max(step.fewer_seconds / 4, computed + per_row * (rows - step.rows)) + sent


def _epoch(size: EpochSize, ranks: int, seconds: float, step: StepSpeed, *, is_measured: bool) -> EpochForecast:
    validation = size.validations * size.validation_rows / ranks * step.validation_row
    return EpochForecast(ranks=ranks, seconds=size.steps * seconds + validation, is_measured=is_measured)


def best(forecasts: Sequence[EpochForecast]) -> EpochForecast:
    """Return the forecast of the fewest ranks that no other number of ranks beats by more than 3 %."""
    fastest = min(each.seconds for each in forecasts)
    return next(each for each in forecasts if _WORTH * each.seconds <= fastest)


def lines(plan: TrainingPlan, work: Work) -> list[str]:
    """Return the forecasts of a planned training as text, by all that was measured of its kind of step."""
    measured = step_speed.read(work, key_of(plan))
    if not measured:
        return ["forecast    none: `idxtrain doctor --measure` with these options measures a step"]
    size = size_of(plan)
    return [line for speeds in measured for line in lines_of(size, speeds, len(plan.ranks))]


def lines_of(size: EpochSize, speeds: StepSpeeds, ranks: int) -> list[str]:
    """Return the forecasts at one place as text, with an advice where fewer ranks than `ranks` are faster."""
    powers = [1 << power for power in range(max(ranks, 1).bit_length())]
    forecasts = forecast(size, speeds, sorted({ranks, *powers}))
    best_one = best(forecasts)
    shown = [each for each in forecasts if each.is_measured or each.ranks in (ranks, best_one.ranks)]
    each = ", ".join(
        f"{'' if one.is_measured else 'about '}{_seconds(one.seconds)} on {counted(one.ranks, 'rank')}" for one in shown
    )
    text = [f"forecast    an epoch takes {each} of {speeds.place} ({speeds.device})"]
    asked = next((one for one in forecasts if one.ranks == ranks), None)
    if asked is None:
        how = f"; `idxtrain doctor --measure --np {ranks}` measures it" if speeds.site is None else ""
        text.append(f"            best of these: {counted(best_one.ranks, 'rank')}{how}")
    elif best_one.ranks < ranks and best_one.seconds < asked.seconds:
        text.append(f"            fewer ranks are faster: --np {best_one.ranks}{_why(speeds, asked)}")
    else:
        text.append(f"            best: {counted(best_one.ranks, 'rank')}")
    return text


def _why(speeds: StepSpeeds, asked: EpochForecast) -> str:
    step = next((step for step in speeds.steps if step.ranks == asked.ranks), None)
    if step is None or step.waited < 0.25 * step.seconds:
        return ""
    return f", as {step.waited / step.seconds:.0%} of a step on {step.ranks} is allreduce"


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 1000 else f"{seconds:,.0f} s"
