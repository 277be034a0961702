"""A retraining's decision as one page for people, that needs nothing but itself."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs.files import write_atomic
from jobs.run_dir import RunDir

_TEMPLATE = "decision.html.j2"


def write_page(run: RunDir, decision: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    """Write decision.html, whole, for its owner alone. `decision`: what decision.json holds."""
    page = render(decision, metrics)

    def write(temporary: Path) -> None:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 (a descriptor, not a path)
            file.write(page)

    write_atomic(run.decision_page, write)


def render(decision: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """Return the page; every text in it is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    failed = [check for check in decision["checks"] if check["blocks"] and not check["holds"]]
    return environment.get_template(_TEMPLATE).render(decision=decision, test=metrics["test"], failed=failed)
