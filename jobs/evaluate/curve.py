"""Lay out the training curve as charts, in SVG units, for the report to draw.

Hand-rolled rather than drawn by matplotlib: SVG in the page follows dark mode by CSS, has tooltips, obeys the page's
content security policy, and spares the import of matplotlib.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs import training_log

WIDTH, HEIGHT = 480, 270  # of a chart, in SVG units
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 14, 44  # margins around the plot, for axis labels
_MOST_POINTS = 300  # of a line; more would not be visible
_MOST_DOTS = 40  # a line of more points has no dots
_TICKS = 5
_SMALLEST_LOSS = 1e-6  # replaces 0, which a logarithmic axis lacks


@dataclass(frozen=True)
class Tick:
    """A mark on an axis, in SVG units, and its label."""

    position: float
    label: str


@dataclass(frozen=True)
class Dot:
    """One measurement, in SVG units, and its tooltip."""

    x: float
    y: float
    label: str


@dataclass(frozen=True)
class Line:
    """The measurements of one kind, "train" or "validation", in order of steps; dots only if they are few."""

    kind: str
    points: str
    dots: tuple[Dot, ...]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One figure over the training steps."""

    title: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]


Series = Mapping[str, NDArray[Any]]  # kind to float64 [points, 2]: step, value


def read_curve(path: Path) -> list[dict[str, Any]]:
    """Return the measurements of a run's training log in the order of their steps; see `jobs.training_log`."""
    return sorted(training_log.read(path), key=lambda point: point["step"])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def charts(curve: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Lay out loss (logarithmic) and accuracy over the steps; without measurements there is no chart."""
    loss, accuracy = _series(curve, "loss"), _series(curve, "accuracy")
    laid_out = []
    if loss:
        loss = {kind: np.maximum(values, [0, _SMALLEST_LOSS]) for kind, values in loss.items()}
        laid_out.append(_chart("Loss (logarithmic)", loss, log_ticks(*_range(loss)), log10, lambda v: f"{v:.4g}"))
    if accuracy:
        # The first steps have far lower accuracies; an axis down to them would flatten the rest.
        low = float(np.quantile(np.concatenate([values[:, 1] for values in accuracy.values()]), 0.05))
        ticks = linear_ticks(min(low, 0.999), 1.0)
        laid_out.append(_chart("Accuracy", accuracy, ticks, lambda v: v, lambda v: f"{100 * v:.4g} %"))
    return laid_out


def _series(curve: Sequence[Mapping[str, Any]], name: str) -> Series:
    series = {}
    for kind in ("train", "validation"):
        points = [
            (point["step"], point[name]) for point in curve if point.get("kind") == kind and _is_number(point.get(name))
        ]
        if points:
            series[kind] = _thin_out(np.array(points, np.float64))
    return series


def _thin_out(points: NDArray[Any]) -> NDArray[Any]:
    """Average neighboring points if there are more than are visible."""
    if len(points) <= _MOST_POINTS:
        return points
    return np.array([group.mean(axis=0) for group in np.array_split(points, _MOST_POINTS)])


def _range(series: Series) -> tuple[float, float]:
    values = np.concatenate([points[:, 1] for points in series.values()])
    return float(values.min()), float(values.max())


def linear_ticks(low: float, high: float, smallest: float = 0.0) -> list[float]:
    """Return about five round numbers that enclose [low, high], at least `smallest` apart; `low` < `high`."""
    least = max((high - low) / _TICKS, smallest)
    power = 10.0 ** floor(log10(least))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return [n * step for n in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return powers of ten that enclose [low, high], both positive; 2 and 5 times them too if they are few."""
    first, last = floor(log10(low)), floor(log10(high)) + 1
    factors = (1, 2, 5) if last - first <= 2 else (1,)
    ticks = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
    start = max(tick for tick in ticks if tick <= low * (1 + 1e-9))
    end = min(tick for tick in ticks if tick >= high * (1 - 1e-9) and tick > start)
    return [tick for tick in ticks if start <= tick <= end]


def _chart(
    title: str, series: Series, y_ticks: list[float], scale: Callable[[float], float], label: Callable[[float], str]
) -> Chart:
    """Lay out a chart whose y axis spans its ticks. `scale`: makes the axis linear. `label`: formats a value."""
    last_step = max(float(points[-1, 0]) for points in series.values())
    x_ticks = linear_ticks(0, max(last_step, 1), smallest=1)
    low, high = scale(y_ticks[0]), scale(y_ticks[-1])

    def x(step: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * step / x_ticks[-1], 1)

    def y(value: float) -> float:
        share = (scale(max(value, y_ticks[0])) - low) / (high - low)
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share, 1)

    def line(kind: str, points: NDArray[Any]) -> Line:
        dots = tuple(Dot(x(step), y(value), f"step {step:,.0f}: {label(value)}") for step, value in points.tolist())
        return Line(kind, " ".join(f"{dot.x},{dot.y}" for dot in dots), dots if len(dots) <= _MOST_DOTS else ())

    return Chart(
        title=title,
        x_ticks=tuple(Tick(x(step), f"{step:,.0f}") for step in x_ticks),
        y_ticks=tuple(Tick(y(value), label(value)) for value in y_ticks),
        lines=tuple(line(kind, points) for kind, points in series.items()),
    )
