"""Checks of the challenger's training data against the champion's."""

from collections.abc import Mapping, Sequence

from jobs.evaluate.comparison import EXCHANGES, FeatureDrift
from jobs.words import counted
from pipelines.gate.check import Check, at_most, failure
from pipelines.gate.config import GateConfig
from pipelines.gate.facts import DataFacts

_MOST_LISTED = 10  # labels in a text


def drift_checks(config: GateConfig, champion: DataFacts, data: DataFacts) -> list[Check]:
    """Check training data for drift. Another shape or other classes always block: the champion cannot be compared."""
    if data.shape != champion.shape:
        return [
            failure("shape", f"{data.name}: found images of {data.shape}, expected the champion's {champion.shape}")
        ]
    checks = []
    unknown = sorted(set(data.all_labels) - set(champion.all_labels))
    if unknown:
        listed = ", ".join(map(str, unknown[:_MOST_LISTED])) + (", …" if len(unknown) > _MOST_LISTED else "")
        text = (
            f"{data.name}: found {counted(data.classes, 'class')}, with labels that the champion does not know: "
            f"{listed}; "
            f"expected at most the champion's {champion.classes}"
        )
        checks.append(Check(name="classes", holds=False, figure=data.classes, threshold=champion.classes, text=text))
    champion_std = champion.std or 1.0
    shift = abs(data.mean - champion.mean) / champion_std
    spread = abs(data.std - champion.std) / champion_std
    distance = label_distance(data.images_by_label, champion.images_by_label)
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


def feature_checks(config: GateConfig, drifts: Sequence[FeatureDrift], unknown: str) -> list[Check]:
    """Check the champion's features of each new pair. `unknown`: why there are no figures, or "".

    A pair fails if its distance is too large and significant, by Bonferroni's correction over the new pairs. So if no
    pair has drifted, one fails with a probability of at most gate.drift_alpha. The smallest p-value is 1 in 10,000.
    Where the correction asks for less (above 100 pairs at the default), that is each pair's level.
    """
    blocks = config.drift == "block"
    if unknown:
        text = f"not checked: {unknown}"
        if blocks:  # also the next challengers, until a champion's dataset can be compared with
            text = f"not checked: {unknown.partition('; fix:')[0]}; fix: promote once with --set gate.drift=report"
        return [Check(name="drift of features", holds=False, blocks=blocks, text=text)]
    checks = []
    for drift in drifts:
        level = max(config.drift_alpha / len(drifts), 1 / (EXCHANGES + 1))
        is_significant, ceiling = drift.p_value <= level, config.max_feature_drift
        text = (
            f"{pair_name(drift.tag)}: {drift.images} of its images are at a distance of {drift.distance:.4g} from the "
            f"champion's data in the champion's features (p = {drift.p_value:.4g}), expected at most {ceiling:g}, or p "
            f"above {level:.4g}"
        )
        holds = drift.distance <= ceiling or not is_significant
        checks.append(
            Check(
                name="drift of features",
                holds=holds,
                blocks=blocks,
                figure=drift.distance,
                threshold=ceiling,
                text=text,
            )
        )
    return checks


def pair_name(tag: str) -> str:
    """Return the name of a new training pair in texts."""
    return f"new pair {tag or '(untagged)'}"


def label_distance(counts: Mapping[int, int], others: Mapping[int, int]) -> float:
    """Return the total variation distance of two label histograms, in [0, 1]: half the sum of |share − share|.

    `counts`, `others`: images by label; a missing label has none. The distance to an empty histogram is 0.
    """
    total, other_total = sum(counts.values()), sum(others.values())
    if not total or not other_total:
        return 0.0
    labels = sorted({*counts, *others})
    return min(1.0, sum(abs(counts.get(n, 0) / total - others.get(n, 0) / other_total) for n in labels) / 2)
