"""Images that are far from the others of their class.

Features: the 16 principal components of all sketches, brightness and contrast. For each class, center and covariance
are estimated on the half of its rows nearest to the median, then on the rows within the 97.5 % ellipse of that estimate
(one reweighting step, as in Rousseeuw and Van Driessen, "A fast algorithm for the minimum covariance determinant
estimator", 1999). The squared distances are scaled so that their median is that of a chi-square distribution of 18
degrees of freedom. A row is an outlier if its squared distance has an upper tail probability below 1e-5 in that
distribution, and its distance is beyond the class's median + 8 robust standard deviations: a class with heavy tails
flags only what stands apart from its own tail.

For features that are normally distributed, the expected share of false flags is below 1e-5: 0.7 of 70,000 images.

All rows are judged. Components and classes are estimated on at most 200,000 and 100,000 rows, evenly spread, so memory
and most of the time do not grow beyond these.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from jobs.prepare.findings.sketch import Sketch
from jobs.prepare.mapped import take

COMPONENTS = 16
TAIL = 1e-5
LEAST_ROWS = 200  # of a class: fewer rows cannot estimate 18 × 18 covariances
_SPREADS = 8.0
_SHRINKAGE = 0.05  # of a covariance towards its diagonal
_FOR_COMPONENTS, _FOR_A_CLASS = 200_000, 100_000  # rows
_BLOCK = 1 << 16  # rows at a time: limits the memory


def outliers(sketch: Sketch, rows: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the outliers among increasing rows, int64 [n], and their distances over the limit, float64 [n].

    The farthest comes first.
    """
    components = Components.of(sketch)
    order = rows[np.argsort(sketch.labels[rows], kind="stable")]
    found, excesses = [np.empty(0, np.int64)], [np.empty(0)]
    for of_class in np.split(order, np.flatnonzero(np.diff(sketch.labels[order])) + 1):
        if len(of_class) < LEAST_ROWS:
            continue
        center = Class.of(components.features(sketch, _spread(of_class, _FOR_A_CLASS)))
        for start in range(0, len(of_class), _BLOCK):
            block = of_class[start : start + _BLOCK]
            excess = center.excess(components.features(sketch, block))
            found.append(block[excess > 1])
            excesses.append(excess[excess > 1])
    everything, excess = np.concatenate(found), np.concatenate(excesses)
    farthest = np.lexsort((everything, -excess))
    return everything[farthest], excess[farthest]


def _spread(rows: NDArray[Any], most: int) -> NDArray[Any]:
    """Return at most N rows, evenly spread."""
    return take(rows, slice(None, None, -(-len(rows) // most)))


@dataclass(frozen=True)
class Components:
    """The principal components of sketches: their mean, float32 [192], and the axes, float32 [192, 16]."""

    mean: NDArray[Any]
    axes: NDArray[Any]

    @classmethod
    def of(cls, sketch: Sketch) -> "Components":
        """Estimate the components of a sketch of one row or more."""
        projections = _spread(sketch.projections, _FOR_COMPONENTS).astype(np.float32)
        mean = projections.mean(axis=0, dtype=np.float64).astype(np.float32)
        projections -= mean
        _, axes = np.linalg.eigh(projections.T @ projections)
        return cls(mean, np.ascontiguousarray(axes[:, ::-1][:, :COMPONENTS]))  # 4 times faster than by the view

    def features(self, sketch: Sketch, rows: NDArray[Any]) -> NDArray[Any]:
        """Return the features of rows: float64 [n, 18]."""
        main = (take(sketch.projections, rows).astype(np.float32) - self.mean) @ self.axes
        return np.column_stack([main, sketch.means[rows], sketch.contrasts[rows]]).astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class Class:
    """A class of images: `middle` and `spread` scale features; `center` and `inverse` covariance are of scaled ones.

    `scale`: what makes the median of the squared distances that of a chi-square. `limit`: of a distance.
    """

    middle: NDArray[Any]
    spread: NDArray[Any]
    center: NDArray[Any]
    inverse: NDArray[Any]
    scale: float
    limit: float

    @classmethod
    def of(cls, values: NDArray[Any]) -> "Class":
        """Estimate the class of features float64 [n, features], n ≥ 200."""
        middle = np.median(values, axis=0)
        spread = np.maximum(1.4826 * np.median(np.abs(values - middle), axis=0), 1e-9)
        scaled = (values - middle) / spread
        distances = (scaled**2).sum(axis=1)
        degrees = scaled.shape[1]
        half = distances <= np.median(distances)
        _, _, _, distances = _mahalanobis(scaled, scaled[half])
        core = scaled[distances <= stats.chi2.ppf(0.975, degrees)]
        center, inverse, scale, distances = _mahalanobis(scaled, core)
        roots = np.sqrt(distances)
        typical = float(np.median(roots))
        robust = max(1.4826 * float(np.median(np.abs(roots - typical))), 1e-9)
        limit = max(float(np.sqrt(stats.chi2.isf(TAIL, degrees))), typical + _SPREADS * robust)
        return cls(middle=middle, spread=spread, center=center, inverse=inverse, scale=scale, limit=limit)

    def excess(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return how far features lie outside the class, float64 [n]: distance over the limit; above 1 an outlier."""
        squares = _squares((values - self.middle) / self.spread, self.center, self.inverse) * self.scale
        result: NDArray[Any] = np.sqrt(squares) / self.limit
        return result


def _mahalanobis(values: NDArray[Any], core: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], float, NDArray[Any]]:
    """Return the core's center, its inverse covariance, the scale, and the squared distances of all values.

    They are scaled to the median of a chi-square.
    """
    covariance = np.cov(core.T)
    covariance = (
        (1 - _SHRINKAGE) * covariance + _SHRINKAGE * np.diag(np.diag(covariance)) + 1e-9 * np.eye(len(covariance))
    )
    center, inverse = core.mean(axis=0), np.linalg.inv(covariance)
    squares = _squares(values, center, inverse)
    scale = float(stats.chi2.median(values.shape[1])) / max(float(np.median(squares)), 1e-12)
    return center, inverse, scale, squares * scale


def _squares(values: NDArray[Any], center: NDArray[Any], inverse: NDArray[Any]) -> NDArray[Any]:
    centered = values - center
    squares: NDArray[Any] = np.einsum("ij,ij->i", centered @ inverse, centered)
    return squares
