"""Where log lines go: to the terminal as they are, to a file with the time."""

import errno
import io
import logging
import re
import sys
from pathlib import Path
from typing import Any

log = logging.getLogger("idxtrain")

_ERROR = re.compile(r"^\S+ \S+ ERROR (.*)$", re.MULTILINE)  # a line of a log file: date, time, level, message


def log_to_file(path: Path) -> None:
    """Send log lines to a file as well, with the time."""
    path.parent.mkdir(exist_ok=True)
    handler = _File(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)


def log_to_file_only(message: str) -> None:
    """Log an error to the files alone, because the caller prints it on the terminal."""
    record = log.makeRecord(log.name, logging.ERROR, __file__, 0, message, (), None)
    for handler in log.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


class Errors:
    """The errors that a log file receives from now on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begin = path.stat().st_size if path.exists() else 0

    def last(self) -> str:
        """Return the message of the last one; empty if there is none."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._begin)
                messages = _ERROR.findall(file.read().decode(errors="replace"))
        except OSError:
            return ""
        return messages[-1] if messages else ""


def keep_writing() -> None:
    """Drop what this process writes to stderr, without an error, once no one can read it any longer.

    A closed terminal, or the end of the program at the other end of a pipe, must not end a training before it has
    written its checkpoint, nor keep a launcher from hearing its ranks.
    """
    if not isinstance(sys.stderr, io.TextIOWrapper) or sys.stderr is not sys.__stderr__:  # closed or replaced
        return
    lossy = io.BufferedWriter(_Lossy(sys.stderr.fileno(), "w", closefd=False))
    sys.stderr = io.TextIOWrapper(lossy, sys.stderr.encoding, "backslashreplace", line_buffering=True)


class _Lossy(io.FileIO):
    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in (errno.EIO, errno.EPIPE):
                raise
            return len(data)


def log_to_stderr() -> None:
    """Send log lines to stderr as they are, with a prefix for warnings."""
    handler = _Terminal()
    handler.setFormatter(_LineFormatter())
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False


class _Terminal(logging.Handler):
    """Writes to what stderr is now: while a progress bar is on the terminal, Rich prints the line above it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except Exception:  # as logging's own handlers: a line that cannot be written ends no program
            self.handleError(record)


class _File(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        """Drop the line without a traceback: the disk is full, and the error that matters is reported elsewhere."""


class _LineFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        return prefix + record.getMessage()
