"""comparison.json of a run: the challenger's file examined, and former champions on the same test images.

`jobs.evaluate.compare` writes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jobs.evaluate.comparison import FeatureDrift, Paired
from jobs.files import read_object
from jobs.run_dir import RunDir
from pipelines.gate.facts import ModelFacts


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The comparison with the champion and with the best champion so far; None without one of them.

    `incomparable`: why a champion could not be evaluated, or "". `drift`: of each new pair from the champion's data;
    `drift_unknown`: why that is unknown, or "".
    """

    model: ModelFacts
    champion_accuracy: float | None = None
    paired: Paired | None = None
    best_accuracy: float | None = None
    paired_best: Paired | None = None
    incomparable: str = ""
    drift: tuple[FeatureDrift, ...] = ()
    drift_unknown: str = ""


def read_comparison(run: RunDir) -> Comparison:
    """Return a run's comparison; raise InputError if its file is missing or no JSON object."""
    raw = read_object(run.comparison_file, "run `idxtrain retrain` again")
    return Comparison(
        model=ModelFacts(**raw["model"]),
        champion_accuracy=_accuracy(raw["champion"]),
        paired=_paired(raw["paired"]),
        best_accuracy=_accuracy(raw.get("best")),
        paired_best=_paired(raw.get("paired_best")),
        incomparable=raw["incomparable"],
        drift=tuple(FeatureDrift(**pair) for pair in raw.get("drift", ())),
        drift_unknown=raw.get("drift_unknown", ""),
    )


def _accuracy(test: Mapping[str, Any] | None) -> float | None:
    return float(test["accuracy"]) if test else None


def _paired(counts: Mapping[str, int] | None) -> Paired | None:
    return Paired.from_json(counts) if counts else None
