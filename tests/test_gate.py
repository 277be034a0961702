"""The gate: what is promoted, what is not, and that the decision says why."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.errors import InputError
from jobs.evaluate.comparison import Paired
from pipelines.config import compose
from pipelines.gate.config import GateConfig
from pipelines.gate.decision import Decision, decide, label_distance
from pipelines.gate.exact_tests import mcnemar
from pipelines.gate.facts import DataFacts, Evidence, ModelFacts
from pipelines.gate.not_worse import not_worse

DATA = DataFacts("training data", (28, 28, 1), 3, (100, 100, 100), 0.13, 0.3)
MODEL = ModelFacts(bytes=1_000_000, latency_ms=2.0, difference=0.0)


def result(accuracy: float = 0.95, recalls: tuple[float | None, ...] = (0.9, 0.95, 1.0)) -> dict[str, Any]:
    classes = [{"label": label, "recall": recall} for label, recall in enumerate(recalls)]
    return {"accuracy": accuracy, "count": 500, "ci95": [accuracy - 0.01, min(1, accuracy + 0.01)], "classes": classes}


def first() -> Evidence:
    return Evidence(result(), MODEL, (DATA,))


def against(lost: int, gained: int, count: int = 10_000, **more: Any) -> Evidence:
    paired = Paired(both=count - lost - gained, only_champion=lost, only_challenger=gained, neither=0)
    return replace(first(), paired=paired, champion_data=DATA, **more)


def failed(decision: Decision) -> list[str]:
    return [check.name for check in decision.failed]


def test_the_first_model_is_promoted_when_the_floors_hold() -> None:
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
        (replace(first(), model=replace(MODEL, bytes=10**9)), "size", "too much by 500"),
        (replace(first(), model=replace(MODEL, latency_ms=3000.0)), "latency", "3000 ms"),
        (replace(first(), model=replace(MODEL, difference=0.01)), "same predictions", "0.01"),
        (replace(first(), model=ModelFacts(5, None, None, "no zip file")), "model loads", "no zip file"),
        (replace(first(), incomparable="the champion takes other images"), "comparable", "other images"),
        (against(80, 20), "not worse", "too many by"),
        (
            against(0, 9, data=(replace(DATA, shape=(32, 32, 1)),)),
            "shape",
            "images of (32, 32, 1), the champion's of (28, 28, 1)",
        ),
        (against(0, 9, data=(replace(DATA, classes=4, label_counts=(9, 9, 9, 9)),)), "classes", "4 classes"),
    ],
)
def test_what_fails_is_named_and_by_how_much(evidence: Evidence, name: str, words: str) -> None:
    decision = decide(GateConfig(), evidence)
    assert not decision.promote
    assert name in failed(decision)
    assert words in decision.reason


def test_a_class_without_test_images_has_no_recall_to_hold() -> None:
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
def test_the_rules(rule: str, lost: int, gained: int, promoted: bool) -> None:
    decision = decide(GateConfig.model_validate({"rule": rule}), against(lost, gained))
    assert decision.promote == promoted
    names = {check.name for check in decision.checks}
    assert ("better" in names, "not worse" in names) == (rule != "not-worse", rule != "better")


@given(st.integers(0, 300), st.integers(0, 300), st.floats(0.001, 0.49), st.floats(0, 0.1))
@settings(deadline=None, max_examples=5)
def test_a_check_is_its_figure_against_its_threshold(lost: int, gained: int, alpha: float, delta: float) -> None:
    config = GateConfig(rule="both", alpha=alpha, delta=delta)
    checks = {check.name: check for check in decide(config, against(lost, gained)).checks}
    assert checks["not worse"].figure == not_worse(lost, gained, 10_000, delta)
    assert checks["not worse"].holds == (not_worse(lost, gained, 10_000, delta) <= alpha)
    assert checks["better"].holds == (mcnemar(lost, gained, "less") <= alpha)


@given(st.integers(0, 200), st.integers(0, 200), st.integers(0, 20))
@settings(deadline=None, max_examples=20)
def test_one_more_error_never_helps(lost: int, gained: int, more: int) -> None:
    config = GateConfig(rule="both")
    if decide(config, against(lost + more, gained, 1000)).promote:
        assert decide(config, against(lost, gained, 1000)).promote


def test_a_test_set_too_small_for_delta_is_named_with_the_size_it_takes() -> None:
    decision = decide(GateConfig(), against(0, 0, 200))
    assert not decision.promote
    assert "found 200 test images, expected at least 602 to show a loss below gate.delta=0.005" in decision.reason
    assert "gate.delta=0.015 or more" in decision.reason
    assert decide(GateConfig(delta=0.015), against(0, 0, 200)).promote
    assert decide(GateConfig(), against(0, 0, 602)).promote
    assert not decide(GateConfig(), against(0, 0, 601)).promote
    assert "expected at least" not in decide(GateConfig(), against(90, 0)).reason


def test_a_delta_of_zero_promotes_what_is_better_and_nothing_else() -> None:
    same = decide(GateConfig(delta=0), against(0, 0))
    assert not same.promote
    assert "gate.delta=0 lets no challenger pass that is merely as good" in same.reason
    assert decide(GateConfig(delta=0), against(10, 40)).promote


def test_test_images_in_the_training_data_block() -> None:
    leaky = replace(first(), test_images_in_training=3)
    decision = decide(GateConfig(), leaky)
    assert failed(decision) == ["test images in training"]
    assert "3 of 500 test images are in the training data, too, at most 0 allowed; fix: remove them" in decision.reason
    assert decide(GateConfig(max_test_images_in_training=3), leaky).promote
    assert decide(GateConfig(), replace(first(), test_images_in_training=0)).promote


def test_small_losses_do_not_add_up_over_promotions() -> None:
    """Each challenger has 20 errors more than the champion: of 10,000, with 10 changes back, that passes each time."""
    step = Paired(both=9_970, only_champion=25, only_challenger=5, neither=0)
    assert decide(GateConfig(), replace(first(), paired=step)).promote
    # What the third one has lost against the first.
    third = Paired(both=9_910, only_champion=75, only_challenger=15, neither=0)
    decision = decide(GateConfig(), replace(first(), paired=step, best=third, best_name="version 1"))
    assert failed(decision) == ["not worse than the best"]
    assert "75 only version 1 got right, 15 only the challenger" in decision.reason


INVERTED = replace(DATA, name="new pair 2026-02-01", mean=0.87)


def test_drift_is_reported_and_blocks_when_asked() -> None:
    evidence = against(5, 5, data=(DATA, INVERTED))
    reported = decide(GateConfig(), evidence)
    assert reported.promote
    assert [check.name for check in reported.warnings] == ["drift of pixel mean"]
    assert "new pair 2026-02-01: the mean moved by 2.467 deviations" in reported.warnings[0].text
    blocked = decide(GateConfig(drift="block"), evidence)
    assert not blocked.promote
    assert failed(blocked) == ["drift of pixel mean"]


def test_labels_and_spread_drift_too() -> None:
    skewed = replace(DATA, label_counts=(280, 10, 10), std=0.1)
    warned = [check.name for check in decide(GateConfig(), against(5, 5, data=(skewed,))).warnings]
    assert warned == ["drift of labels", "drift of pixel spread"]


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=12), st.lists(st.integers(0, 1000), min_size=1, max_size=12))
def test_the_label_distance_is_a_distance(one: list[int], other: list[int]) -> None:
    assert label_distance(one, one) == pytest.approx(0)
    assert label_distance(one, other) == pytest.approx(label_distance(other, one))
    assert 0 <= label_distance(one, other) <= 1
    if sum(one):
        assert label_distance(one, [*(0 for _ in one), 7]) == pytest.approx(1)


def test_a_decision_is_json_with_every_check() -> None:
    written = json.loads(json.dumps(decide(GateConfig(), against(80, 20)).to_json(), allow_nan=False))
    assert written["promote"] is False
    for check in written["checks"]:
        assert check.keys() == {"name", "holds", "blocks", "figure", "threshold", "text"}


def test_facts_of_data_survive_json() -> None:
    assert DataFacts.from_json(json.loads(json.dumps(DATA.to_json()))) == DATA


def test_the_gate_is_a_section_of_the_config() -> None:
    assert compose("fast", {}, ["gate.min_accuracy=0.99", "gate.drift=block"]).gate == GateConfig(
        min_accuracy=0.99, drift="block"
    )
    with pytest.raises(InputError, match=r"gate\.min_acuracy: found an unknown key; did you mean min_accuracy\?"):
        compose("fast", {}, ["gate.min_acuracy=0.9"])
