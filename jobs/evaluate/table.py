"""The result as text on stderr: a Rich table on a terminal, plain lines in a log."""

import sys
from collections.abc import Sequence

from jobs.errors import printable
from jobs.evaluate.metrics import read_confusions, shown_names, worst_classes, worst_confusions
from jobs.logs import log
from jobs.metrics import Caveat, TestMetrics
from jobs.text_table import text_table
from jobs.words import counted

_MOST_CLASSES = 30  # if there are more, only those with the lowest recall are shown
_MOST_CONFUSIONS = 5
_LONGEST_NAME = 30  # characters
_COLUMNS = ("class", "images", "precision", "recall")
_NAMED_COLUMNS = ("label", *_COLUMNS)


def show(test: TestMetrics, caveats: Sequence[Caveat] = ()) -> None:
    """Show the test figures on stderr, and what to know before trusting them."""
    if sys.stderr.isatty():
        _show_on_terminal(test, caveats)
        return
    for line in lines(test):
        log.info("%s", line)
    for caveat in caveats:
        log.warning("evaluate: %s", caveat.text)


def lines(test: TestMetrics) -> list[str]:
    """Return the result as lines of plain text."""
    columns = _columns(test)
    table = text_table(columns, _rows(test), right=[n for n, name in enumerate(columns) if _is_right(name, columns)])
    return [f"evaluate: {headline(test)}", *table, *(f"evaluate: {line}" for line in _remarks(test))]


def headline(test: TestMetrics) -> str:
    """Return the result in one line: accuracy, errors, 95 % interval, loss."""
    low, high = (f"{bound:.4f}" for bound in test.ci95)
    errors = f"{counted(test.errors, 'error', 'd')} in {test.count}"
    loss = "" if test.loss is None else f", loss {test.loss:.4f}"
    return f"test accuracy {test.accuracy:.4f} ({errors}), 95 % interval {low} to {high}{loss}"


def _show_on_terminal(test: TestMetrics, caveats: Sequence[Caveat]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table, columns = Table(box=box.SIMPLE_HEAD), _columns(test)
    for column in columns:
        table.add_column(column, justify="right" if _is_right(column, columns) else "left")
    for row in _rows(test):
        table.add_row(*map(Text, row))  # a name is no markup
    console = Console(stderr=True, highlight=False)
    console.print(headline(test), style="bold")
    console.print(table)
    for remark in _remarks(test):
        console.print(remark, markup=False)
    for caveat in caveats:
        console.print(f"caveat: {caveat.text}", style="yellow", markup=False)


def _columns(test: TestMetrics) -> tuple[str, ...]:
    """Return the column titles: names have their own column beside the labels."""
    return _NAMED_COLUMNS if any(each.name != str(each.label) for each in test.classes) else _COLUMNS


def _is_right(column: str, columns: Sequence[str]) -> bool:
    return column != "class" or "label" not in columns


def _rows(test: TestMetrics) -> list[tuple[str, ...]]:
    is_named = _columns(test) == _NAMED_COLUMNS
    return [
        (
            *((str(each.label),) if is_named else ()),
            shortened(each.name),
            f"{each.support:,}",
            _share(each.precision),
            _share(each.recall),
        )
        for each in worst_classes(test.classes, _MOST_CLASSES)
    ]


def shortened(name: str) -> str:
    """Return a class name on one line of at most 30 characters."""
    line = printable(name)
    return line if len(line) <= _LONGEST_NAME else f"{line[: _LONGEST_NAME - 1]}…"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _remarks(test: TestMetrics) -> list[str]:
    remarks = []
    if len(test.classes) > _MOST_CLASSES:
        shown = len(worst_classes(test.classes, _MOST_CLASSES))
        remarks.append(f"the {shown} of {len(test.classes)} classes with the lowest recall; metrics.json has all")
    worst = worst_confusions(read_confusions(test), _MOST_CONFUSIONS)
    if worst:
        names = [shortened(name) for name in shown_names(test)]
        errors = ", ".join(f"{names[each.true]} predicted as {names[each.predicted]}: {each.count}" for each in worst)
        remarks.append(f"most frequent errors: {errors}")
    return remarks
