"""Images that are far from the others of their class.

Features: the 16 principal components of all sketches, brightness and contrast. For each class, center and covariance
are estimated on the half of its rows nearest to the median, then on the rows within the 97.5 % ellipse of that estimate
(one reweighting step, as in Rousseeuw and Van Driessen, "A fast algorithm for the minimum covariance determinant
estimator", 1999). The squared distances are scaled so that their median is that of a chi-square distribution of 18
degrees of freedom. A row is an outlier if its squared distance has an upper tail probability below 1e-5 in that
distribution, and its distance is beyond the class's median + 8 robust standard deviations: a class with heavy tails
flags only what stands apart from its own tail.

For features that are normally distributed, the expected share of false flags is below 1e-5: 0.7 of 70,000 images.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from jobs.prepare.findings.sketch import Sketch

COMPONENTS = 16
TAIL = 1e-5
LEAST_ROWS = 200  # of a class: fewer rows cannot estimate 18 × 18 covariances
_SPREADS = 8.0
_SHRINKAGE = 0.05  # of a covariance towards its diagonal


def features(sketch: Sketch) -> NDArray[Any]:
    """Return float32 [n, 18] of the rows of a sketch."""
    projections = sketch.projections.astype(np.float32)
    center = projections.mean(axis=0, dtype=np.float64).astype(np.float32)
    projections -= center
    _, axes = np.linalg.eigh(projections.T @ projections)
    main = projections @ np.ascontiguousarray(axes[:, ::-1][:, :COMPONENTS])  # 4 times faster than by the view
    return np.column_stack([main, sketch.means, sketch.contrasts])


def excess(values: NDArray[Any], labels: NDArray[Any]) -> NDArray[Any]:
    """Return how far each row lies outside its class, float64 [n]: its distance over the limit; above 1 an outlier.

    `values`: features. `labels`: int [n]. Rows of a class of fewer than 200 get 0.
    """
    result = np.zeros(len(values))
    order = np.argsort(labels, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
        if len(rows) >= LEAST_ROWS:
            result[rows] = _excess(values[rows].astype(np.float64))
    return result


def _excess(values: NDArray[Any]) -> NDArray[Any]:
    middle = np.median(values, axis=0)
    spread = np.maximum(1.4826 * np.median(np.abs(values - middle), axis=0), 1e-9)
    scaled = (values - middle) / spread
    distances = (scaled**2).sum(axis=1)
    degrees = scaled.shape[1]
    half = distances <= np.median(distances)
    distances = _mahalanobis(scaled, scaled[half])
    distances = _mahalanobis(scaled, scaled[distances <= stats.chi2.ppf(0.975, degrees)])
    roots = np.sqrt(distances)
    center = float(np.median(roots))
    robust = max(1.4826 * float(np.median(np.abs(roots - center))), 1e-9)
    limit = max(float(np.sqrt(stats.chi2.isf(TAIL, degrees))), center + _SPREADS * robust)
    return roots / limit


def _mahalanobis(values: NDArray[Any], core: NDArray[Any]) -> NDArray[Any]:
    """Return squared distances from the core's center by its covariance, scaled to the median of a chi-square."""
    covariance = np.cov(core.T)
    covariance = (
        (1 - _SHRINKAGE) * covariance + _SHRINKAGE * np.diag(np.diag(covariance)) + 1e-9 * np.eye(len(covariance))
    )
    centered = values - core.mean(axis=0)
    squares = np.einsum("ij,ij->i", centered @ np.linalg.inv(covariance), centered)
    return squares * (stats.chi2.median(values.shape[1]) / max(float(np.median(squares)), 1e-12))
