"""What one check found, and the table of all findings."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from jobs.text_table import text_table

Verdict = Literal["ok", "warning", "fails"]

_STYLES: dict[str, str] = {"ok": "green", "warning": "yellow", "fails": "bold red"}
_HEADER = ("check", "found", "expected", "verdict", "fix")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check: what it found, what it expects and, unless the verdict is ok, the fix."""

    name: str
    found: str
    expected: str
    verdict: Verdict = "ok"
    fix: str = ""


def exit_code(findings: Iterable[Finding]) -> int:
    """Return 1 if a check fails, else 0. Warnings do not count."""
    return int(any(finding.verdict == "fails" for finding in findings))


def summary(findings: Sequence[Finding]) -> str:
    """Return the number of findings of each verdict, on one line."""
    count = {verdict: sum(finding.verdict == verdict for finding in findings) for verdict in _STYLES}
    warnings = f"{count['warning']} warning{'' if count['warning'] == 1 else 's'}"
    return f"{len(findings)} checks: {count['ok']} ok, {warnings}, {count['fails']} failed"


def plain_table(findings: Iterable[Finding]) -> str:
    """Return the table as aligned lines, one per check, for logs and pipes."""
    return "\n".join(text_table(_HEADER, [_cells(finding) for finding in findings]))


def print_table(findings: Sequence[Finding]) -> None:
    """Print the table and its summary on stdout: colored on a terminal, else plain."""
    if sys.stdout.isatty():
        _print_rich(findings)
    else:
        print(plain_table(findings))
    print(summary(findings))


def _print_rich(findings: Iterable[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for title in _HEADER:
        table.add_column(title, overflow="fold")  # wrap a long path instead of cutting it
    for finding in findings:
        style = _STYLES[finding.verdict]
        # Text instead of markup: a path may contain square brackets.
        table.add_row(*(Text(cell, style=style if cell == finding.verdict else "") for cell in _cells(finding)))
    Console().print(table)


def _cells(finding: Finding) -> tuple[str, ...]:
    cells = (finding.name, finding.found, finding.expected, finding.verdict, finding.fix)
    return tuple(" ".join(cell.split()) for cell in cells)  # one line each, whatever a program printed
