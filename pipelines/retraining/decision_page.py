"""A retraining's decision as one page for people, that needs nothing but itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs import page
from jobs.run_dir import RunDir

_TEMPLATE = Path(__file__).with_name("decision.html.j2")


def write_page(run: RunDir, decision: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    """Write decision.html, whole, for its owner alone. `decision`: what decision.json holds."""
    page.write_private(run.decision_page, render(decision, metrics))


def render(decision: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """Return the page; every text in it is escaped."""
    failed = [check for check in decision["checks"] if check["blocks"] and not check["holds"]]
    html: str = page.template(_TEMPLATE).render(decision=decision, test=metrics["test"], failed=failed)
    return html
