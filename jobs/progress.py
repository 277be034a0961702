"""Progress of long work: a Rich bar on a terminal, a plain line every few seconds in a log."""

import sys
import time
from types import TracebackType
from typing import Any

from jobs.logs import log
from jobs.words import duration

_LINE_EVERY_SECONDS = 5.0
_SHORTEST_BAR, _LONGEST_BAR = 10, 40  # columns


class Progress:
    """A context manager around one long task of `total` units; None if the total is unknown.

    `update(done, "loss 0.1")` shows how far the task is, with an optional detail. The unit "bytes" is shown in MB.
    """

    def __init__(self, what: str, total: int | None, unit: str) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._bar: Any = None
        self._last_line = time.monotonic()

    def __enter__(self) -> "Progress":
        if sys.stderr.isatty():
            self._bar = _bar(self._unit)
            self._task = self._bar.add_task(self._what, total=self._total, detail="")
            self._bar.start()
        return self

    def update(self, done: int, detail: str = "", seconds_left: float | None = None) -> None:
        """Show that `done` units of the total are done.

        `seconds_left`: an estimate for the log; a bar makes its own, from the speed of the last half minute.
        """
        if self._bar is not None:
            self._bar.update(self._task, completed=done, detail=detail)
        elif time.monotonic() - self._last_line >= _LINE_EVERY_SECONDS:
            self._last_line = time.monotonic()
            goal = f" of {self._amount(self._total)}" if self._total is not None else ""
            unit = "" if self._unit == "bytes" else f" {self._unit}"
            if seconds_left is not None:
                detail = f"{detail}, {duration(seconds_left)} left"
            log.info("%s: %s%s%s%s", self._what, self._amount(done), goal, unit, f": {detail}" if detail else "")

    def ended(self, done: int) -> None:
        """Take `done` units as the whole task: it ended before its total."""
        self._total = done
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=done)

    def _amount(self, units: int) -> str:
        return megabytes(units) if self._unit == "bytes" else f"{units:,}"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            if kind is None:  # a task that ended is done, also where the last update was short of the total
                self._bar.update(self._task, completed=self._total or self._bar.tasks[0].completed)
            self._bar.stop()


def _bar(unit: str) -> Any:
    """Return a Rich bar that keeps amounts and time left whole on a narrow terminal, and cuts the detail instead."""
    from rich import progress
    from rich.console import Console
    from rich.table import Column

    console = Console(stderr=True)
    amounts = (
        [progress.DownloadColumn(table_column=Column(no_wrap=True))]
        if unit == "bytes"
        else [progress.MofNCompleteColumn(table_column=Column(no_wrap=True)), progress.TextColumn(unit)]
    )
    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(min(max(console.width // 6, _SHORTEST_BAR), _LONGEST_BAR)),
        *amounts,
        progress.TimeRemainingColumn(elapsed_when_finished=True, table_column=Column(no_wrap=True)),
        progress.TextColumn(
            "{task.fields[detail]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)
        ),
        console=console,
        expand=True,  # the detail gets what the other columns leave
    )


def megabytes(count: int) -> str:
    """Return a number of bytes in kB or MB, for people."""
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"
