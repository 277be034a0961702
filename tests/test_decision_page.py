"""The decision page: a person sees at once what failed, what is only a warning, and why."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from jobs import metrics
from pipelines.gate.check import Check, at_least, at_most, failure
from pipelines.retraining.decision_page import render
from pipelines.retraining.records import ComparedModel, DecisionRecord
from tests.support.report_picture import require_chromium, screenshot

TEST = metrics.TestMetrics(
    accuracy=0.9934, errors=66, count=10_000, ci95=(0.9916, 0.9948), loss=0.02, classes=(), confusion=()
)
DRIFT = at_most("drift of labels", 0.3, 0.2, "label shares differ by 0.3", blocks=False)
PASSED = at_least("accuracy", 0.99, 0.8, "test accuracy 0.99")


def decision(*checks: Check, **fields: Any) -> DecisionRecord:
    champion = ComparedModel(version=3, run_id="r3", accuracy=None)
    usual = {"name": "digits", "run_id": "r4", "version": 4, "champion": champion, "promote": False, "reason": "no"}
    return DecisionRecord.model_validate(usual | {"checks": checks} | fields)


def test_the_page_lists_failed_checks_and_warnings_above_the_table() -> None:
    page = render(decision(PASSED, failure("size", "too big"), DRIFT, reason="size: too big"), TEST)
    assert page.startswith("<!doctype html>")
    assert "Failed checks: size." in page
    rows = [page.index(f'<td class="check">{name}</td>') for name in ("size", "drift of labels", "accuracy")]
    assert rows == sorted(rows)
    assert "Warnings: drift of labels." in page
    assert '<td class="details">label shares differ by 0.3, expected at most 0.2, over by 0.1</td>' in page
    assert "99.34&nbsp;% of 10000 test images correct (66 errors)" in page
    assert "Champion, run r3, on the same images: –&nbsp;%." in page


def test_the_page_shows_the_reason_if_no_check_failed() -> None:
    page = render(decision(DRIFT, reason="it was compared with another champion"), TEST)
    assert "<p>It was compared with another champion.</p>" in page
    assert "Failed checks" not in page


def test_every_text_on_the_page_is_escaped() -> None:
    page = render(decision(failure("<b>", "<script>"), name="<i>", reason="<u>"), TEST)
    assert not {"<b>&", "<script>", "<i>", "<u>"} & set(page.split())
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize("scheme", [0, 1], ids=["dark", "light"])
def test_nothing_is_cut_off_on_a_phone(tmp_path: Path, scheme: int) -> None:
    """The strip of 14 pixels at the right edge of a screen of 390 is empty; a wider table would reach into it."""
    require_chromium()
    text = f"new pair {'long_tag_' * 9}: {40 * 'moved '}"
    drift = at_most("drift of pixel mean", 0.123456, 0.25, text, blocks=False)
    (tmp_path / "page.html").write_text(render(decision(PASSED, failure("size", 30 * "too big "), drift), TEST))
    picture = tmp_path / "page.png"
    subprocess.run(screenshot(tmp_path / "page.html", picture, scheme, "390,1200"), check=True, capture_output=True)
    with Image.open(picture) as page:
        assert page.size == (390, 1200)
        assert len(page.convert("RGB").getcolors(1 << 20) or ()) > 20  # there is text
        assert len(page.convert("RGB").crop((376, 0, 390, 1200)).getcolors() or ()) == 1
