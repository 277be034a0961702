"""Lay out the reliability diagram, in SVG units, for the report to draw.

Both axes are logarithmic in the distance from 100 %: on linear ones, nearly all bins of a good model are one dot.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log10

from jobs.evaluate.curve import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Tick
from jobs.evaluate.metrics import wilson_interval
from jobs.metrics import ReliabilityBin

_NINES = 4  # the axes end at 1 − 10⁻⁴: 99.99 %
_TICKS = (0.0, 0.9, 0.99, 0.999, 0.9999)


@dataclass(frozen=True, kw_only=True)
class Bin:
    """A dot with its bar, in SVG units, and its tooltip. `low`, `high`: ends of the 95 % interval of the accuracy."""

    x: float
    y: float
    low: float
    high: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Diagram:
    """Accuracy over confidence. `diagonal`: the points where both are equal, as SVG has them."""

    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    bins: tuple[Bin, ...]
    diagonal: str


def diagram(bins: Sequence[ReliabilityBin]) -> Diagram:
    """Lay out the bins."""
    return Diagram(
        x_ticks=tuple(Tick(_x(share), f"{100 * share:g} %") for share in _TICKS),
        y_ticks=tuple(Tick(_y(share), f"{100 * share:g} %") for share in _TICKS),
        bins=tuple(_bin(each) for each in bins),
        diagonal=f"{_x(0)},{_y(0)} {_x(1)},{_y(1)}",
    )


def _bin(each: ReliabilityBin) -> Bin:
    low, high = wilson_interval(round(each.accuracy * each.count), each.count)
    return Bin(
        x=_x(each.confidence),
        y=_y(each.accuracy),
        low=_y(low),
        high=_y(high),
        label=f"{each.count:,} images: confidence {100 * each.confidence:.3f} %, accuracy {100 * each.accuracy:.2f} %",
    )


def _x(share: float) -> float:
    return round(LEFT + (WIDTH - LEFT - RIGHT) * _stretched(share), 1)


def _y(share: float) -> float:
    return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * _stretched(share), 1)


def _stretched(share: float) -> float:
    """Return the place of a share in [0, 1] on an axis, in [0, 1]; from 99.99 % on, its end."""
    return min(-log10(max(1 - share, 10.0**-_NINES)) / _NINES, 1.0)
