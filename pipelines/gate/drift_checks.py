"""Checks of the challenger's training data against the champion's."""

from collections.abc import Sequence

from pipelines.gate.check import Check, at_most, failure
from pipelines.gate.config import GateConfig
from pipelines.gate.facts import DataFacts


def drift_checks(config: GateConfig, champion: DataFacts, data: DataFacts) -> list[Check]:
    """Check training data for drift. Another shape or more classes always block: the champion cannot be compared."""
    if data.shape != champion.shape:
        return [
            failure("shape", f"{data.name}: found images of {data.shape}, expected the champion's {champion.shape}")
        ]
    checks = []
    if data.classes > champion.classes:
        text = f"{data.name}: found {data.classes} classes, expected at most the champion's {champion.classes}"
        checks.append(Check(name="classes", holds=False, figure=data.classes, threshold=champion.classes, text=text))
    champion_std = champion.std or 1.0
    shift = abs(data.mean - champion.mean) / champion_std
    spread = abs(data.std - champion.std) / champion_std
    distance = label_distance(data.label_counts, champion.label_counts)
    limits = (
        ("drift of labels", distance, config.max_label_distance, f"label shares differ by {distance:.4g}"),
        (
            "drift of pixel mean",
            shift,
            config.max_pixel_shift,
            f"the pixel mean moved by {shift:.4g} of the champion's standard deviations",
        ),
        (
            "drift of pixel spread",
            spread,
            config.max_pixel_spread,
            f"the pixel standard deviation changed by {spread:.4g} of the champion's",
        ),
    )
    blocks = config.drift == "block"
    return checks + [
        at_most(name, figure, ceiling, f"{data.name}: {text}", blocks=blocks) for name, figure, ceiling, text in limits
    ]


def label_distance(counts: Sequence[int], others: Sequence[int]) -> float:
    """Return the total variation distance of two label histograms, in [0, 1]: half the sum of |share − share|.

    Classes that the shorter histogram does not list count as 0. The distance to an empty histogram is 0.
    """
    classes = max(len(counts), len(others))
    total, other_total = sum(counts), sum(others)
    if not total or not other_total:
        return 0.0
    shares = [count / total for count in counts] + [0.0] * (classes - len(counts))
    other_shares = [count / other_total for count in others] + [0.0] * (classes - len(others))
    return min(1.0, sum(abs(a - b) for a, b in zip(shares, other_shares, strict=True)) / 2)
