"""The decision page: a person sees at once what failed, what is only a warning, and why."""

from typing import Any

from jobs import metrics
from pipelines.gate.check import Check, at_most, failure
from pipelines.retraining.decision_page import render
from pipelines.retraining.records import ComparedModel, DecisionRecord

TEST = metrics.TestMetrics(
    accuracy=0.9934, errors=66, count=10_000, ci95=(0.9916, 0.9948), loss=0.02, classes=(), confusion=()
)
DRIFT = at_most("drift of labels", 0.3, 0.2, "label shares differ by 0.3", blocks=False)


def decision(*checks: Check, **fields: Any) -> DecisionRecord:
    champion = ComparedModel(version=3, run_id="r3", accuracy=None)
    usual = {"name": "digits", "run_id": "r4", "version": 4, "champion": champion, "promote": False, "reason": "no"}
    return DecisionRecord.model_validate(usual | {"checks": checks} | fields)


def test_the_page_lists_failed_checks_and_warnings_above_the_table() -> None:
    page = render(decision(failure("size", "too big"), DRIFT, reason="size: too big"), TEST)
    assert page.startswith("<!doctype html>")
    assert "Failed checks: size." in page
    assert "Warnings: drift of labels." in page
    assert "<td>label shares differ by 0.3, expected at most 0.2, over by 0.1</td>" in page
    assert "99.34 % of 10000 test images correct (66 errors)" in page
    assert "Champion, run r3, on the same images: – %." in page


def test_the_page_shows_the_reason_if_no_check_failed() -> None:
    page = render(decision(DRIFT, reason="it was compared with another champion"), TEST)
    assert "<p>It was compared with another champion.</p>" in page
    assert "Failed checks" not in page


def test_every_text_on_the_page_is_escaped() -> None:
    page = render(decision(failure("<b>", "<script>"), name="<i>", reason="<u>"), TEST)
    assert not {"<b>&", "<script>", "<i>", "<u>"} & set(page.split())
    assert "&lt;script&gt;" in page
