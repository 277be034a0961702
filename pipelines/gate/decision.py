"""The gate: whether a challenger becomes champion. Pure functions of figures; no model, no registry, no file.

Every check is a value: what was found, what was demanded, whether it holds and whether it can block. The decision is
all of them together; `decision.json` and the report show each, also those that hold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil, floor, log10
from typing import Any

from jobs.evaluate.comparison import Paired
from pipelines.gate.config import GateConfig
from pipelines.gate.exact_tests import mcnemar
from pipelines.gate.facts import DataFacts, Evidence, ModelFacts
from pipelines.gate.not_worse import images_needed, loss_bound, not_worse


@dataclass(frozen=True)
class Check:
    """One check. `figure` and `threshold` are as `text` says; None where there is no number to it.

    `blocks`: whether the challenger stays out where it does not hold.
    """

    name: str
    holds: bool
    blocks: bool
    figure: float | None
    threshold: float | None
    text: str


@dataclass(frozen=True)
class Decision:
    """Whether to promote, and why."""

    promote: bool
    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that keep the challenger out."""
        return tuple(check for check in self.checks if check.blocks and not check.holds)

    @property
    def warnings(self) -> tuple[Check, ...]:
        """The checks that do not hold but were only to be reported."""
        return tuple(check for check in self.checks if not check.blocks and not check.holds)

    @property
    def reason(self) -> str:
        """One line for a person."""
        if self.promote:
            return "every check that can block holds"
        return "; ".join(f"{check.name}: {check.text}" for check in self.failed)

    def to_json(self) -> dict[str, Any]:
        """Return the decision as decision.json has it."""
        return {"promote": self.promote, "reason": self.reason, "checks": [asdict(check) for check in self.checks]}


def decide(config: GateConfig, evidence: Evidence) -> Decision:
    """Return the decision: promote where every check that can block holds."""
    checks = [*floors(config, evidence.test), *model_checks(config, evidence.model)]
    if evidence.test_images_in_training is not None:
        checks.append(leak_check(config, evidence.test_images_in_training, int(evidence.test["count"])))
    if evidence.incomparable:
        checks.append(Check("comparable", False, True, None, None, evidence.incomparable))
    if evidence.paired is not None:
        checks += paired_checks(config, evidence.paired)
    if evidence.best is not None and config.rule in ("not-worse", "both"):
        checks.append(not_worse_check(config, evidence.best, "not worse than the best", evidence.best_name))
    if evidence.champion_data is not None:
        for data in evidence.data:
            checks += drift_checks(config, evidence.champion_data, data)
    return Decision(all(check.holds or not check.blocks for check in checks), tuple(checks))


def floors(config: GateConfig, test: Mapping[str, Any]) -> list[Check]:
    """Check the challenger alone: accuracy, and the recall of the worst class that has test images."""
    accuracy, (low, high) = float(test["accuracy"]), test["ci95"]
    found = [
        _at_least(
            "accuracy", accuracy, config.min_accuracy, f"test accuracy {accuracy:.4f} (95 %: {low:.4f} to {high:.4f})"
        )
    ]
    recalls = [(each["recall"], each["label"]) for each in test["classes"] if each["recall"] is not None]
    if recalls:
        recall, label = min(recalls)
        found.append(_at_least("recall", recall, config.min_recall, f"recall {recall:.4f} of class {label}, the worst"))
    return found


def _at_least(name: str, figure: float, floor: float, text: str) -> Check:
    short = "" if figure >= floor else f", short by {floor - figure:.4f}"
    return Check(name, figure >= floor, True, figure, floor, f"{text}, at least {floor:g}{short}")


def model_checks(config: GateConfig, model: ModelFacts) -> list[Check]:
    """Check the model's file: that it loads, predicts as at evaluation, is small and quick enough."""
    if model.difference is None or model.latency_ms is None:
        return [Check("model loads", False, True, None, None, f"the model's file does not load: {model.fault}")]
    return [
        Check("model loads", True, True, None, None, "the model's file loads"),
        _at_most(
            "same predictions", model.difference, config.max_difference, "loaded anew, its probabilities differ by {}"
        ),
        _at_most("size", model.bytes / 1e6, config.max_model_mb, "the file has {} MB"),
        _at_most("latency", model.latency_ms, config.max_latency_ms, "one image takes {} ms"),
    ]


def leak_check(config: GateConfig, leaked: int, count: int) -> Check:
    """Check that the challenger was not trained on what it is tested with."""
    most = config.max_test_images_in_training
    text = f"{leaked} of {count} test images are in the training data, too, at most {most} allowed"
    if leaked > most:
        text += "; fix: remove them from the training archives, or allow them by gate.max_test_images_in_training"
    return Check("test images in training", leaked <= most, True, leaked, most, text)


def paired_checks(config: GateConfig, paired: Paired) -> list[Check]:
    """Check the challenger against the champion on the same images."""
    checks = []
    if config.rule in ("not-worse", "both"):
        checks.append(not_worse_check(config, paired, "not worse", "the champion"))
    if config.rule in ("better", "both"):
        p = mcnemar(paired.only_champion, paired.only_challenger, "less")
        words = _who_is_right(paired, "the champion")
        text = f"{words}: McNemar's exact test, one-sided, p = {p:.4g}, at most {config.alpha:g}"
        checks.append(Check("better", p <= config.alpha, True, p, config.alpha, text))
    return checks


def not_worse_check(config: GateConfig, paired: Paired, name: str, other: str) -> Check:
    """Check that the accuracy is not lower than another model's by delta or more. The figure is the p-value of that
    hypothesis, the threshold alpha.
    """
    gained, lost, count = paired.only_challenger, paired.only_champion, paired.count
    p, bound = (
        not_worse(lost, gained, count, config.delta),
        loss_bound(lost, gained, count, config.alpha),
    )
    holds = p <= config.alpha
    bound = min(bound, config.delta) if holds else max(bound, config.delta)  # which p decides, exactly
    text = (
        f"{_who_is_right(paired, other)}: accuracy lower by {100 * (lost - gained) / count:.2f} points, with "
        f"{1 - config.alpha:.0%} confidence by at most {100 * bound:.2f}, less than {100 * config.delta:g} demanded "
        f"(p = {p:.4g}, at most {config.alpha:g})"
    )
    if not holds:
        text += f", too many by {100 * (bound - config.delta):.2f}"
        too_few = test_set_problem(config, count)
        text += f"; {too_few}" if too_few else ""
    return Check(name, holds, True, p, config.alpha, text)


def test_set_problem(config: GateConfig, count: int) -> str | None:
    """Return why `count` test images cannot show that a challenger is not worse by delta, or None where they can.

    It is about one that answers as the champion on every image; one that is clearly better may pass all the same.
    """
    if config.rule == "better" or not_worse(0, 0, count, config.delta) <= config.alpha:
        return None
    needed = images_needed(config.delta, config.alpha)
    if needed is None:
        return "gate.delta=0 lets no challenger pass that is merely as good; fix: allow a delta above 0"
    return (
        f"found {count} test images, expected at least {needed} to show a loss below gate.delta={config.delta:g} even "
        f"where no image changes sides; fix: add test images, or set gate.delta={_rounded_up(count, config.alpha):g} "
        "or more"
    )


def _rounded_up(count: int, alpha: float) -> float:
    """Return the least delta for so many images, rounded up to two digits."""
    least = loss_bound(0, 0, count, alpha)
    unit = 10.0 ** (floor(log10(least)) - 1)
    return min(1.0, ceil(least / unit) * unit)


def _who_is_right(paired: Paired, other: str) -> str:
    return (
        f"of {paired.count} images {paired.only_champion} only {other} got right, "
        f"{paired.only_challenger} only the challenger"
    )


def drift_checks(config: GateConfig, champion: DataFacts, data: DataFacts) -> list[Check]:
    """Check training data against the champion's. Another shape or other classes always block: nothing compares."""
    if data.shape != champion.shape:
        text = f"{data.name}: images of {data.shape}, the champion's of {champion.shape}"
        return [Check("shape", False, True, None, None, text)]
    checks = []
    if data.classes > champion.classes:
        text = f"{data.name}: {data.classes} classes, the champion knows {champion.classes}"
        checks.append(Check("classes", False, True, data.classes, champion.classes, text))
    blocks = config.drift == "block"
    deviation = champion.std or 1.0
    shift = abs(data.mean - champion.mean) / deviation
    spread = abs(data.std - champion.std) / deviation
    distance = label_distance(data.label_counts, champion.label_counts)
    drifts = (
        ("drift of labels", distance, config.max_label_distance, "label shares differ by {}"),
        ("drift of pixel mean", shift, config.max_pixel_shift, "the mean moved by {} deviations"),
        ("drift of pixel spread", spread, config.max_pixel_spread, "the deviation changed by {}, as a share"),
    )
    return checks + [
        _at_most(name, figure, ceiling, f"{data.name}: {text}", blocks) for name, figure, ceiling, text in drifts
    ]


def label_distance(counts: Sequence[int], others: Sequence[int]) -> float:
    """Return the total variation distance of two label histograms, in [0, 1]: half the sum of |share − share|.

    The shorter one has no images of the classes it does not list; an empty one differs from nothing.
    """
    classes = max(len(counts), len(others))
    total, other_total = sum(counts), sum(others)
    if not total or not other_total:
        return 0.0
    shares = [count / total for count in counts] + [0.0] * (classes - len(counts))
    other_shares = [count / other_total for count in others] + [0.0] * (classes - len(others))
    return min(1.0, sum(abs(a - b) for a, b in zip(shares, other_shares, strict=True)) / 2)


def _at_most(name: str, figure: float, ceiling: float, text: str, blocks: bool = True) -> Check:
    over = "" if figure <= ceiling else f", too much by {figure - ceiling:.4g}"
    said = text.replace("{}", f"{figure:.4g}")
    return Check(name, figure <= ceiling, blocks, figure, ceiling, f"{said}, at most {ceiling:g}{over}")
