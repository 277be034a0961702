"""Progress of long work: a Rich bar on a terminal, a plain line now and then in a log."""

import logging
import sys
import time
from types import TracebackType
from typing import Any

_LINE_EVERY_SECONDS = 5.0

log = logging.getLogger("idxtrain")


class Progress:
    """A context manager around one long task of `total` units; None: nobody knows how many.

    `update(done, "loss 0.1")` tells how far it is and, if wanted, more about it. The unit "bytes" is shown as MB.
    """

    def __init__(self, what: str, total: int | None, unit: str) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._bar: Any = None
        self._last_line = time.monotonic()

    def __enter__(self) -> "Progress":
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                *([DownloadColumn()] if self._unit == "bytes" else [MofNCompleteColumn(), TextColumn(self._unit)]),
                TextColumn("{task.fields[note]}", markup=False),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(self._what, total=self._total, note="")
            self._bar.start()
        return self

    def update(self, done: int, note: str = "") -> None:
        """Show that `done` units of the total are done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, note=note)
        elif time.monotonic() - self._last_line >= _LINE_EVERY_SECONDS:
            self._last_line = time.monotonic()
            goal = f" of {self._amount(self._total)}" if self._total is not None else ""
            unit = "" if self._unit == "bytes" else f" {self._unit}"
            log.info("%s: %s%s%s%s", self._what, self._amount(done), goal, unit, f": {note}" if note else "")

    def _amount(self, units: int) -> str:
        return megabytes(units) if self._unit == "bytes" else f"{units:,}"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def megabytes(count: int) -> str:
    """Return a number of bytes as people read it."""
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"
