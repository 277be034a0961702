"""Lay out what a training measured as charts, in SVG units, for the report to draw.

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
from jobs.flight_log import Flight

WIDTH, HEIGHT = 480, 270  # of a chart, in SVG units
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 14, 44  # margins around the plot, for axis labels
_MOST_POINTS = 300  # of a line; more would not be visible
_MOST_DOTS = 40  # a line of more points has no dots
_TICKS = 5
_SMALLEST_LOSS = 1e-6  # replaces 0, which a logarithmic axis lacks
_OWN_KINDS = ("train", "validation")
COLORS = 6  # of other lines; more lines take turns
_MOST_RANKS = 4  # with a line each; of more, the slowest, the median and the fastest are shown


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


@dataclass(frozen=True, kw_only=True)
class Line:
    """The measurements of one kind in order of steps; dots only if they are few. `kind`: its CSS class."""

    kind: str
    name: str
    points: str
    dots: tuple[Dot, ...]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One figure over the training steps."""

    title: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]


Series = Mapping[str, NDArray[Any]]  # name to float64 [points, 2]: step, value


def read_curve(path: Path) -> list[dict[str, Any]]:
    """Return the measurements of a run's training log in the order of their steps; see `jobs.training_log`."""
    return sorted(training_log.read(path), key=lambda point: point["step"])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def charts(curve: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Lay out loss (logarithmic), accuracy and learning rate over the steps; without measurements there is no chart."""
    loss, accuracy, rate = (_by_kind(curve, name) for name in ("loss", "accuracy", "rate"))
    laid_out = []
    if loss:
        laid_out.append(loss_chart("Loss (logarithmic)", loss))
    if accuracy:
        laid_out.append(accuracy_chart("Accuracy", accuracy))
    if rate:
        laid_out.append(from_zero("Learning rate", {"learning rate": rate["train"]}))
    return laid_out


def loss_chart(title: str, loss: Series) -> Chart:
    """Lay out losses, at least one, on a logarithmic axis."""
    loss = {kind: np.maximum(values, [0, _SMALLEST_LOSS]) for kind, values in loss.items()}
    return _chart(title, loss, log_ticks(*_range(loss)), log10, lambda v: f"{v:.4g}")


def accuracy_chart(title: str, accuracy: Series) -> Chart:
    """Lay out accuracies in [0, 1], at least one. The axis leaves out the lowest."""
    # The first steps have far lower accuracies; an axis down to them would flatten the rest.
    low = float(np.quantile(np.concatenate([values[:, 1] for values in accuracy.values()]), 0.05))
    return _chart(title, accuracy, linear_ticks(min(low, 0.999), 1.0), lambda v: v, lambda v: f"{100 * v:.4g} %")


def speed_chart(flights: Mapping[int, Sequence[Flight]]) -> Chart | None:
    """Lay out images per second of each rank over the steps, from its graph calls; None without any."""
    speeds = {
        rank: np.array([(call.step, call.images / seconds) for call in calls if (seconds := call.seconds) > 0])
        for rank, calls in flights.items()
    }
    by_rank = {f"rank {rank}": thin_out(points) for rank, points in speeds.items() if len(points)}
    if len(by_rank) > _MOST_RANKS:
        slowest_first = sorted(by_rank, key=lambda name: float(by_rank[name][:, 1].mean()))
        middle = slowest_first[len(slowest_first) // 2]
        chosen = {"slowest": slowest_first[0], "median": middle, "fastest": slowest_first[-1]}
        by_rank = {f"{which}: {name}": by_rank[name] for which, name in chosen.items()}
    return from_zero("Images per second, by rank", by_rank) if by_rank else None


def from_zero(title: str, series: Series) -> Chart:
    """Lay out values of at least 0, at least one, on an axis from 0."""
    high = max(_range(series)[1], 1e-9)
    return _chart(title, series, linear_ticks(0, high), lambda v: v, lambda v: f"{v:,.4g}" if v < 1e4 else f"{v:,.0f}")


def _by_kind(curve: Sequence[Mapping[str, Any]], name: str) -> Series:
    series = {kind: points_of(curve, kind, name) for kind in _OWN_KINDS}
    return {kind: points for kind, points in series.items() if len(points)}


def points_of(curve: Sequence[Mapping[str, Any]], kind: str, name: str) -> NDArray[Any]:
    """Return the finite values of one kind of measurement, float64 [points, 2]: step, value; at most 300 points."""
    points = [
        (point["step"], point[name]) for point in curve if point.get("kind") == kind and _is_number(point.get(name))
    ]
    return thin_out(np.array(points, np.float64).reshape(-1, 2))


def thin_out(points: NDArray[Any]) -> NDArray[Any]:
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

    def line(number: int, name: str, points: NDArray[Any]) -> Line:
        dots = tuple(Dot(x(step), y(value), f"step {step:,.0f}: {label(value)}") for step, value in points.tolist())
        return Line(
            kind=name if name in _OWN_KINDS else f"line-{number % COLORS}",
            name=name,
            points=" ".join(f"{dot.x},{dot.y}" for dot in dots),
            dots=dots if len(dots) <= _MOST_DOTS else (),
        )

    return Chart(
        title=title,
        x_ticks=tuple(Tick(x(step), f"{step:,.0f}") for step in x_ticks),
        y_ticks=tuple(Tick(y(value), label(value)) for value in y_ticks),
        lines=tuple(line(number, *each) for number, each in enumerate(series.items())),
    )
