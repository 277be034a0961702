"""One check's result, and the table of all of them."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warning", "fails"]

_STYLES: dict[str, str] = {"ok": "green", "warning": "yellow", "fails": "bold red"}
_HEADER = ("check", "found", "expected", "verdict", "mend")


@dataclass(frozen=True)
class Check:
    """What was looked at, what was found, what was expected; and, where that is not the same, the mend."""

    name: str
    found: str
    expected: str
    verdict: Verdict = "ok"
    mend: str = ""


def exit_code(checks: Iterable[Check]) -> int:
    """Return 1 where a check fails, else 0: a warning stops nobody."""
    return int(any(check.verdict == "fails" for check in checks))


def summary(checks: Sequence[Check]) -> str:
    """Return how many checks came out how, on one line."""
    count = {verdict: sum(check.verdict == verdict for check in checks) for verdict in _STYLES}
    warnings = f"{count['warning']} warning{'' if count['warning'] == 1 else 's'}"
    return f"{len(checks)} checks: {count['ok']} ok, {warnings}, {count['fails']} failed"


def plain_table(checks: Iterable[Check]) -> str:
    """Return the table as aligned lines, one a check, for logs and pipes."""
    rows = [_HEADER, *(_cells(check) for check in checks)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def print_table(checks: Sequence[Check]) -> None:
    """Print the table and its summary on stdout: in colours on a terminal, else as plain lines."""
    if sys.stdout.isatty():
        _print_rich(checks)
    else:
        print(plain_table(checks))
    print(summary(checks))


def _print_rich(checks: Iterable[Check]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for title in _HEADER:
        table.add_column(title, overflow="fold")  # a long path is broken, never cut
    for check in checks:
        style = _STYLES[check.verdict]
        # As Text, not as markup: a path may hold square brackets.
        table.add_row(*(Text(cell, style=style if cell == check.verdict else "") for cell in _cells(check)))
    Console().print(table)


def _cells(check: Check) -> tuple[str, ...]:
    cells = (check.name, check.found, check.expected, check.verdict, check.mend)
    return tuple(" ".join(cell.split()) for cell in cells)  # one line each, whatever a program has answered
