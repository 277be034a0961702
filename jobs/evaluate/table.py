"""The result as text on stderr: a Rich table on a terminal, plain lines in a log."""

import sys

from jobs.evaluate.metrics import read_confusions, worst_classes, worst_confusions
from jobs.logs import log
from jobs.metrics import TestMetrics
from jobs.text_table import text_table

_MOST_CLASSES = 30  # if there are more, only those with the lowest recall are shown
_MOST_CONFUSIONS = 5
_COLUMNS = ("class", "images", "precision", "recall")


def show(test: TestMetrics) -> None:
    """Show the test figures on stderr."""
    if sys.stderr.isatty():
        _show_on_terminal(test)
    else:
        for line in lines(test):
            log.info("%s", line)


def lines(test: TestMetrics) -> list[str]:
    """Return the result as lines of plain text."""
    table = text_table(_COLUMNS, _rows(test), right=range(len(_COLUMNS)))
    return [f"evaluate: {headline(test)}", *table, *(f"evaluate: {line}" for line in _remarks(test))]


def headline(test: TestMetrics) -> str:
    """Return the result in one line: accuracy, errors, 95 % interval, loss."""
    low, high = (f"{bound:.4f}" for bound in test.ci95)
    errors = f"{test.errors} error{'' if test.errors == 1 else 's'} in {test.count}"
    return f"test accuracy {test.accuracy:.4f} ({errors}), 95 % interval {low} to {high}, loss {test.loss:.4f}"


def _show_on_terminal(test: TestMetrics) -> None:
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


def _rows(test: TestMetrics) -> list[tuple[str, str, str, str]]:
    return [
        (str(each.label), f"{each.support:,}", _share(each.precision), _share(each.recall))
        for each in worst_classes(test.classes, _MOST_CLASSES)
    ]


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _remarks(test: TestMetrics) -> list[str]:
    remarks = []
    if len(test.classes) > _MOST_CLASSES:
        shown = len(worst_classes(test.classes, _MOST_CLASSES))
        remarks.append(f"the {shown} of {len(test.classes)} classes with the lowest recall; metrics.json has all")
    worst = worst_confusions(read_confusions(test.confusion, len(test.classes)), _MOST_CONFUSIONS)
    if worst:
        errors = ", ".join(f"{each.true} predicted as {each.predicted}: {each.count}" for each in worst)
        remarks.append(f"most frequent errors: {errors}")
    return remarks
