"""Progress of long work: a Rich bar on a terminal, a plain line every few seconds in a log."""

import sys
import time
from types import TracebackType
from typing import Any

from jobs.logs import log

_LINE_EVERY_SECONDS = 5.0


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
            import rich.progress
            from rich.console import Console

            text = rich.progress.TextColumn
            amounts = (
                [rich.progress.DownloadColumn()]
                if self._unit == "bytes"
                else [rich.progress.MofNCompleteColumn(), text(self._unit)]
            )
            self._bar = rich.progress.Progress(
                text("{task.description}", markup=False),
                rich.progress.BarColumn(),
                *amounts,
                text("{task.fields[detail]}", markup=False),
                rich.progress.TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(self._what, total=self._total, detail="")
            self._bar.start()
        return self

    def update(self, done: int, detail: str = "") -> None:
        """Show that `done` units of the total are done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, detail=detail)
        elif time.monotonic() - self._last_line >= _LINE_EVERY_SECONDS:
            self._last_line = time.monotonic()
            goal = f" of {self._amount(self._total)}" if self._total is not None else ""
            unit = "" if self._unit == "bytes" else f" {self._unit}"
            log.info("%s: %s%s%s%s", self._what, self._amount(done), goal, unit, f": {detail}" if detail else "")

    def _amount(self, units: int) -> str:
        return megabytes(units) if self._unit == "bytes" else f"{units:,}"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def megabytes(count: int) -> str:
    """Return a number of bytes in kB or MB, for people."""
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"
