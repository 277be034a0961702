"""The gate's decision: whether a challenger becomes champion. Pure functions of figures: no model, registry or file.

Every check is a value. The decision holds all of them, so that `decision.json` and its page also show those that hold.
"""

from dataclasses import dataclass

from pipelines.gate.challenger_checks import leak_check, model_checks, result_checks
from pipelines.gate.champion_checks import not_worse_check, paired_checks
from pipelines.gate.check import Check, failure
from pipelines.gate.config import GateConfig
from pipelines.gate.drift_checks import drift_checks, feature_checks
from pipelines.gate.facts import Evidence


@dataclass(frozen=True)
class Decision:
    """Whether to promote the challenger, and every check that led to it."""

    promote: bool
    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that keep the challenger out."""
        return tuple(check for check in self.checks if check.blocks and not check.holds)

    @property
    def reason(self) -> str:
        """The reason on one line."""
        if self.promote:
            return "all blocking checks passed"
        return "; ".join(f"{check.name}: {check.text}" for check in self.failed)


def decide(config: GateConfig, evidence: Evidence) -> Decision:
    """Return the decision: promote if every check that can block holds."""
    checks = [*result_checks(config, evidence.test), *model_checks(config, evidence.model)]
    if evidence.test_images_in_training is not None:
        checks.append(leak_check(config, evidence.test_images_in_training, evidence.test.count))
    if evidence.incomparable:
        checks.append(failure("comparable", evidence.incomparable))
    if evidence.paired is not None:
        checks += paired_checks(config, evidence.paired)
    if evidence.best is not None and config.rule in ("not-worse", "both"):
        checks.append(not_worse_check(config, evidence.best, "not worse than the best", evidence.best_name))
    if evidence.champion_data is not None:
        for data in evidence.data:
            checks += drift_checks(config, evidence.champion_data, data)
        checks += feature_checks(config, evidence.drift, evidence.drift_unknown)
    return Decision(all(check.holds or not check.blocks for check in checks), tuple(checks))
