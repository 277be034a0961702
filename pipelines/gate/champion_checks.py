"""Checks of the challenger against a champion on the same test images."""

from math import ceil, floor, log10

from jobs.evaluate.comparison import Paired
from jobs.words import counted
from pipelines.gate.check import Check
from pipelines.gate.config import GateConfig
from pipelines.gate.exact_tests import mcnemar
from pipelines.gate.not_worse import loss_upper_bound, noninferiority_p_value, required_sample_size


def paired_checks(config: GateConfig, paired: Paired) -> list[Check]:
    """Check the challenger against the champion by the configured rule."""
    checks = []
    if config.rule in ("not-worse", "both"):
        checks.append(not_worse_check(config, paired, "not worse", "the champion"))
    if config.rule in ("better", "both"):
        checks.append(_better_check(config, paired))
    return checks


def not_worse_check(config: GateConfig, paired: Paired, name: str, other: str) -> Check:
    """Check that the accuracy is not lower than that of the model `other` by gate.delta or more.

    The figure is the p-value of the hypothesis that it is; the threshold is gate.alpha.
    """
    gained, lost, count = paired.only_challenger, paired.only_champion, paired.count
    p = noninferiority_p_value(lost, gained, count, config.delta)
    bound = loss_upper_bound(lost, gained, count, config.alpha)
    holds = p <= config.alpha
    # The p-value decides. The bound is only shown, and must not contradict it by its rounding.
    bound = min(bound, config.delta) if holds else max(bound, config.delta)
    text = (
        f"{_discordant(paired, other)}: accuracy lower by {100 * (lost - gained) / count:.2f} points, with "
        f"{1 - config.alpha:.0%} confidence by at most {100 * bound:.2f}, expected less than {100 * config.delta:g} "
        f"(p = {p:.4g}, expected at most {config.alpha:g})"
    )
    if not holds:
        text += f", over by {100 * (bound - config.delta):.2f}"
        problem = sample_size_problem(config, count)
        text += f"; {problem}" if problem else ""
    return Check(name=name, holds=holds, figure=p, threshold=config.alpha, text=text)


def _better_check(config: GateConfig, paired: Paired) -> Check:
    p = mcnemar(paired.only_champion, paired.only_challenger)
    test = f"McNemar's exact test, one-sided: p = {p:.4g}, expected at most {config.alpha:g}"
    text = f"{_discordant(paired, 'the champion')}: {test}"
    return Check(name="better", holds=p <= config.alpha, figure=p, threshold=config.alpha, text=text)


def _discordant(paired: Paired, other: str) -> str:
    return (
        f"{paired.only_champion} of {paired.count} images are correct only for {other}, "
        f"{paired.only_challenger} only for the challenger"
    )


def sample_size_problem(config: GateConfig, count: int) -> str | None:
    """Return why `count` test images are too few for gate.delta, or None if they are enough.

    Enough means: a challenger that answers every image like the champion passes. A clearly better one may pass with
    fewer images.
    """
    if config.rule == "better" or noninferiority_p_value(0, 0, count, config.delta) <= config.alpha:
        return None
    required = required_sample_size(config.delta, config.alpha)
    if required is None:
        return "gate.delta=0 rejects a challenger that is only as good as the champion; fix: set gate.delta above 0"
    return (
        f"found {counted(count, 'test image', 'd')}, expected at least {required} to show a loss below "
        f"gate.delta={config.delta:g} "
        "even if both models answer alike; fix: add test images, or set "
        f"gate.delta={_least_delta(count, config.alpha):g} or more"
    )


def _least_delta(count: int, alpha: float) -> float:
    """Return the least delta that `count` images can show, rounded up to two digits."""
    least = loss_upper_bound(0, 0, count, alpha)
    unit = 10.0 ** (floor(log10(least)) - 1)
    return min(1.0, ceil(least / unit) * unit)
