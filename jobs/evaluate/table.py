"""The result as text on stderr: a Rich table on a terminal, plain lines in a log."""

import logging
import sys
from collections.abc import Mapping
from typing import Any

from jobs.evaluate.metrics import read_confusions, worst_classes, worst_confusions

_MOST_CLASSES = 30  # of many classes only those with the lowest recall are shown
_MOST_CONFUSIONS = 5
_COLUMNS = ("class", "images", "precision", "recall")

log = logging.getLogger("idxtrain")


def show(test: Mapping[str, Any]) -> None:
    """Show the `test` object of metrics.json on stderr."""
    if sys.stderr.isatty():
        _show_on_terminal(test)
    else:
        for line in lines(test):
            log.info("%s", line)


def lines(test: Mapping[str, Any]) -> list[str]:
    """Return the result as lines of plain text."""
    text = [f"evaluate: {headline(test)}"]
    text += ["  ".join(f"{cell:>9}" for cell in row) for row in (_COLUMNS, *_rows(test))]
    return text + [f"evaluate: {line}" for line in _remarks(test)]


def headline(test: Mapping[str, Any]) -> str:
    """Return the result in one line: accuracy, 95 % interval, errors, loss."""
    low, high = (f"{bound:.4f}" for bound in test["ci95"])
    errors = f"{test['errors']} error{'' if test['errors'] == 1 else 's'} in {test['count']}"
    return f"test accuracy {test['accuracy']:.4f} ({errors}), 95 % interval {low} to {high}, loss {test['loss']:.4f}"


def _show_on_terminal(test: Mapping[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for column in _COLUMNS:
        table.add_column(column, justify="right")
    for row in _rows(test):
        table.add_row(*row)
    console = Console(stderr=True, highlight=False)
    console.print(headline(test), style="bold")
    console.print(table)
    for remark in _remarks(test):
        console.print(remark, markup=False)


def _rows(test: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    return [
        (str(entry["label"]), f"{entry['support']:,}", _share(entry["precision"]), _share(entry["recall"]))
        for entry in worst_classes(test["classes"], _MOST_CLASSES)
    ]


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _remarks(test: Mapping[str, Any]) -> list[str]:
    remarks = []
    if len(test["classes"]) > _MOST_CLASSES:
        shown = len(worst_classes(test["classes"], _MOST_CLASSES))
        remarks.append(f"of {len(test['classes'])} classes the {shown} with the lowest recall; metrics.json has all")
    worst = worst_confusions(read_confusions(test), _MOST_CONFUSIONS)
    if worst:
        confused = ", ".join(f"{c.true} taken for {c.predicted}: {c.count}" for c in worst)
        remarks.append(f"most frequent errors: {confused}")
    return remarks
