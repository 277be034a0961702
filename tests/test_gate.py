"""The gate: what it promotes, what it rejects, and that the decision names the reason."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.errors import InputError
from jobs.evaluate.comparison import FeatureDrift, Paired
from pipelines.config import compose
from pipelines.gate.check import Check
from pipelines.gate.config import GateConfig
from pipelines.gate.decision import Decision, decide
from pipelines.gate.drift_checks import label_distance
from pipelines.gate.exact_tests import mcnemar
from pipelines.gate.facts import DataFacts, EvaluationFacts, Evidence, ModelFacts
from pipelines.gate.not_worse import noninferiority_p_value
from pipelines.retraining.records import DecisionRecord, TrainingData

MODEL = ModelFacts(bytes=1_000_000, latency_ms=2.0, difference=0.0)


def facts(**changes: Any) -> DataFacts:
    """Return facts of training data, with these changes."""
    usual = {"shape": (28, 28, 1), "classes": 3, "label_counts": (100, 100, 100), "mean": 0.13, "std": 0.3}
    return DataFacts.model_validate({"name": "training data", **usual, **changes})


DATA = facts()


def result(accuracy: float = 0.95, recalls: tuple[float | None, ...] = (0.9, 0.95, 1.0)) -> EvaluationFacts:
    ci95 = (accuracy - 0.01, min(1, accuracy + 0.01))
    return EvaluationFacts(
        accuracy=accuracy, ci95=ci95, count=500, recalls={str(label): recall for label, recall in enumerate(recalls)}
    )


def first() -> Evidence:
    return Evidence(test=result(), model=MODEL, data=(DATA,))


def against(lost: int, gained: int, count: int = 10_000, **more: Any) -> Evidence:
    paired = Paired(both=count - lost - gained, only_champion=lost, only_challenger=gained, neither=0)
    return replace(first(), **{"paired": paired, "champion_data": DATA, **more})


def failed(decision: Decision) -> list[str]:
    return [check.name for check in decision.failed]


def warnings(decision: Decision) -> list[Check]:
    return [check for check in decision.checks if not check.blocks and not check.holds]


def test_the_first_model_is_promoted_if_its_own_checks_hold() -> None:
    decision = decide(GateConfig(), first())
    assert decision.promote
    assert {"accuracy", "recall", "model loads", "same predictions", "size", "latency"} == {
        check.name for check in decision.checks
    }


@pytest.mark.parametrize(
    ("evidence", "name", "words"),
    [
        (replace(first(), test=result(0.7)), "accuracy", "short by 0.1000"),
        (replace(first(), test=result(recalls=(0.9, 0.2, 1.0))), "recall", "recall 0.2000 of class 1"),
        (replace(first(), model=replace(MODEL, bytes=10**9)), "size", "over by 500"),
        (replace(first(), model=replace(MODEL, latency_ms=3000.0)), "latency", "3000 ms"),
        (replace(first(), model=replace(MODEL, difference=0.01)), "same predictions", "0.01"),
        (
            replace(first(), model=ModelFacts(bytes=5, latency_ms=None, difference=None, fault="no zip file")),
            "model loads",
            "no zip file",
        ),
        (replace(first(), incomparable="the champion takes other images"), "comparable", "other images"),
        (against(80, 20), "not worse", "over by"),
        (
            against(0, 9, data=(facts(shape=(32, 32, 1)),)),
            "shape",
            "found images of (32, 32, 1), expected the champion's (28, 28, 1)",
        ),
        (against(0, 9, data=(facts(classes=4, label_counts=(9, 9, 9, 9)),)), "classes", "found 4 classes"),
    ],
)
def test_the_reason_names_each_failed_check_and_by_how_much_it_failed(
    evidence: Evidence, name: str, words: str
) -> None:
    decision = decide(GateConfig(), evidence)
    assert not decision.promote
    assert name in failed(decision)
    assert words in decision.reason


def test_a_class_without_test_images_has_no_recall_check() -> None:
    assert decide(GateConfig(), replace(first(), test=result(recalls=(0.9, None, 1.0)))).promote


@pytest.mark.parametrize(
    ("rule", "lost", "gained", "promoted"),
    [
        ("not-worse", 30, 30, True),
        ("better", 30, 30, False),
        ("better", 10, 30, True),
        ("both", 10, 30, True),
        ("both", 30, 31, False),
        ("not-worse", 60, 40, True),
        ("not-worse", 70, 20, False),
    ],
)
def test_each_rule_compares_with_the_champion_in_its_own_way(rule: str, lost: int, gained: int, promoted: bool) -> None:
    decision = decide(GateConfig.model_validate({"rule": rule}), against(lost, gained))
    assert decision.promote == promoted
    names = {check.name for check in decision.checks}
    assert ("better" in names, "not worse" in names) == (rule != "not-worse", rule != "better")


@given(st.integers(0, 300), st.integers(0, 300), st.floats(0.001, 0.49), st.floats(0, 0.1))
@settings(deadline=None, max_examples=5)
def test_a_check_holds_exactly_if_its_figure_is_within_its_threshold(
    lost: int, gained: int, alpha: float, delta: float
) -> None:
    config = GateConfig(rule="both", alpha=alpha, delta=delta)
    checks = {check.name: check for check in decide(config, against(lost, gained)).checks}
    assert checks["not worse"].figure == noninferiority_p_value(lost, gained, 10_000, delta)
    assert checks["not worse"].holds == (noninferiority_p_value(lost, gained, 10_000, delta) <= alpha)
    assert checks["better"].holds == (mcnemar(lost, gained) <= alpha)


@given(st.integers(0, 200), st.integers(0, 200), st.integers(0, 20))
@settings(deadline=None, max_examples=20)
def test_more_lost_images_never_turn_a_rejection_into_a_promotion(lost: int, gained: int, more: int) -> None:
    config = GateConfig(rule="both")
    if decide(config, against(lost + more, gained, 1000)).promote:
        assert decide(config, against(lost, gained, 1000)).promote


def test_a_test_set_too_small_for_delta_is_reported_with_the_required_size() -> None:
    decision = decide(GateConfig(), against(0, 0, 200))
    assert not decision.promote
    assert "found 200 test images, expected at least 602 to show a loss below gate.delta=0.005" in decision.reason
    assert "gate.delta=0.015 or more" in decision.reason
    assert decide(GateConfig(delta=0.015), against(0, 0, 200)).promote
    assert decide(GateConfig(), against(0, 0, 602)).promote
    assert not decide(GateConfig(), against(0, 0, 601)).promote
    assert "expected at least" not in decide(GateConfig(), against(90, 0)).reason


def test_a_delta_of_zero_promotes_only_a_better_model() -> None:
    same = decide(GateConfig(delta=0), against(0, 0))
    assert not same.promote
    assert "gate.delta=0 rejects a challenger that is only as good as the champion" in same.reason
    assert decide(GateConfig(delta=0), against(10, 40)).promote


def test_test_images_in_the_training_data_block_a_promotion() -> None:
    leaky = replace(first(), test_images_in_training=3)
    decision = decide(GateConfig(), leaky)
    assert failed(decision) == ["test images in training"]
    assert "3 of 500 test images are also in the training data, expected at most 0; fix: remove them" in decision.reason
    assert decide(GateConfig(max_test_images_in_training=3), leaky).promote
    assert decide(GateConfig(), replace(first(), test_images_in_training=0)).promote


def test_small_losses_do_not_add_up_over_promotions() -> None:
    """Each challenger loses 25 of 10,000 images and gains 5: against the champion alone, each would pass."""
    step = Paired(both=9_970, only_champion=25, only_challenger=5, neither=0)
    assert decide(GateConfig(), replace(first(), paired=step)).promote
    # The third against the first.
    third = Paired(both=9_910, only_champion=75, only_challenger=15, neither=0)
    decision = decide(GateConfig(), replace(first(), paired=step, best=third, best_name="version 1"))
    assert failed(decision) == ["not worse than the best"]
    assert "75 of 10000 images are correct only for version 1, 15 only for the challenger" in decision.reason


INVERTED = facts(name="new pair 2026-02-01", mean=0.87)


def test_drift_is_reported_and_blocks_only_if_configured() -> None:
    evidence = against(5, 5, data=(DATA, INVERTED))
    reported = decide(GateConfig(), evidence)
    assert reported.promote
    (warning,) = warnings(reported)
    assert warning.name == "drift of pixel mean"
    assert "new pair 2026-02-01: the pixel mean moved by 2.467 of the champion's standard deviations" in warning.text
    blocked = decide(GateConfig(drift="block"), evidence)
    assert not blocked.promote
    assert failed(blocked) == ["drift of pixel mean"]


def test_drift_of_labels_and_pixel_spread_is_reported() -> None:
    skewed = facts(label_counts=(280, 10, 10), std=0.1)
    reported = decide(GateConfig(), against(5, 5, data=(skewed,)))
    assert [check.name for check in warnings(reported)] == ["drift of labels", "drift of pixel spread"]


HISTOGRAMS = st.dictionaries(st.integers(-300, 300), st.integers(0, 1000), min_size=1, max_size=12)


@given(HISTOGRAMS, HISTOGRAMS)
def test_the_label_distance_is_symmetric_bounded_and_zero_for_equal_shares(
    one: dict[int, int], other: dict[int, int]
) -> None:
    assert label_distance(one, one) == pytest.approx(0)
    assert label_distance(one, other) == pytest.approx(label_distance(other, one))
    assert 0 <= label_distance(one, other) <= 1
    if sum(one.values()):
        assert label_distance(one, {1000: 7}) == pytest.approx(1)


def drifted(tag: str, distance: float, p_value: float) -> FeatureDrift:
    return FeatureDrift(tag=tag, images=1000, distance=distance, p_value=p_value)


def test_drift_of_features_fails_if_it_is_both_large_and_significant() -> None:
    pairs = [drifted("far", 0.4, 0.0001), drifted("chance", 0.4, 0.004), drifted("near", 0.05, 0.0001)]
    reported = decide(GateConfig(), against(5, 5, drift=pairs))
    assert reported.promote
    (warning,) = warnings(reported)
    assert (warning.name, warning.figure, warning.threshold) == ("drift of features", 0.4, 0.1)
    assert warning.text == (
        "new pair far: 1000 of its images are at a distance of 0.4 from the champion's data in the champion's features "
        "(p = 0.0001), expected at most 0.1, or p above 0.003333"
    )
    assert failed(decide(GateConfig(drift="block"), against(5, 5, drift=pairs))) == ["drift of features"]


def test_the_level_of_each_pair_is_alpha_over_the_number_of_pairs_as_far_as_p_values_reach() -> None:
    for number, p_value, count in ((1, 0.01, 1), (2, 0.01, 0), (100, 0.0001, 100), (500, 0.0001, 500)):
        decision = decide(GateConfig(), against(5, 5, drift=[drifted("x", 0.4, p_value)] * number))
        assert len(warnings(decision)) == count


def test_drift_that_cannot_be_checked_is_reported_and_blocks_if_configured() -> None:
    evidence = against(5, 5, drift_unknown="the dataset is not here")
    (warning,) = warnings(decide(GateConfig(), evidence))
    assert warning.text == "not checked: the dataset is not here"
    assert failed(decide(GateConfig(drift="block"), evidence)) == ["drift of features"]


def test_labels_are_compared_by_their_value_in_the_archives() -> None:
    champion = facts(labels=(1, 5, 9), label_counts=(50, 30, 20))
    same = facts(labels=(5, 9), classes=2, label_counts=(60, 40))
    decision = decide(GateConfig(max_label_distance=0.45), against(0, 9, data=(same,), champion_data=champion))
    assert {check.name: check.figure for check in warnings(decision)} == {"drift of labels": pytest.approx(0.5)}
    other = facts(labels=(1, 5, 8))
    decision = decide(GateConfig(), against(0, 9, data=(other,), champion_data=champion))
    assert failed(decision) == ["classes"]
    assert "found 3 classes, with labels that the champion does not know: 8; expected at most" in decision.reason


def test_decision_json_holds_every_check_with_all_its_fields() -> None:
    decision = decide(GateConfig(), against(80, 20))
    record = DecisionRecord(
        name="digits",
        run_id="r1",
        version=None,
        champion=None,
        promote=decision.promote,
        reason=decision.reason,
        checks=decision.checks,
    )
    written = json.loads(json.dumps(record.model_dump(mode="json"), allow_nan=False))
    assert written.keys() == {"name", "run_id", "version", "champion", "best", "promote", "reason", "checks"}
    assert written["promote"] is False
    assert len(written["checks"]) == len(decision.checks)
    for check in written["checks"]:
        assert check.keys() == {"name", "holds", "blocks", "figure", "threshold", "text"}


def test_a_model_that_predicts_nan_is_rejected_and_its_decision_is_readable() -> None:
    decision = decide(GateConfig(), replace(first(), model=replace(MODEL, difference=float("nan"))))
    assert failed(decision) == ["same predictions"]
    (check,) = decision.failed
    assert Check.model_validate(json.loads(json.dumps(check.model_dump(mode="json")))).name == check.name


def test_facts_of_training_data_survive_json() -> None:
    data = TrainingData(training=DATA, pairs=(("a", "b"), ("c", "d")))
    assert TrainingData.model_validate(json.loads(json.dumps(data.model_dump(mode="json")))) == data


def test_the_gate_is_a_validated_section_of_the_config() -> None:
    assert compose("fast", {}, ["gate.min_accuracy=0.99", "gate.drift=block"]).gate == GateConfig(
        min_accuracy=0.99, drift="block"
    )
    with pytest.raises(InputError, match=r"gate\.min_acuracy: found an unknown key; did you mean min_accuracy\?"):
        compose("fast", {}, ["gate.min_acuracy=0.9"])
