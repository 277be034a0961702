"""decision.html: a retraining's decision as one self-contained page for people."""

from pathlib import Path

from jobs import page
from jobs.metrics import TestMetrics
from jobs.run_dir import RunDir
from pipelines.retraining.records import DecisionRecord

_TEMPLATE = Path(__file__).with_name("decision.html.j2")


def write_page(run: RunDir, decision: DecisionRecord, test: TestMetrics) -> None:
    """Write decision.html, whole, readable by its owner alone. `test`: that object of metrics.json."""
    page.write_private(run.decision_page, render(decision, test))


def render(decision: DecisionRecord, test: TestMetrics) -> str:
    """Return the page; every text in it is escaped."""
    html: str = page.template(_TEMPLATE).render(decision=decision, test=test)
    return html
