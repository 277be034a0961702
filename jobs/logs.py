"""Where this project's log lines go: the terminal as they are, a file with the time."""

import logging
import sys
from pathlib import Path

log = logging.getLogger("idxtrain")


def log_to_file(path: Path) -> None:
    """Send this project's log lines to a file as well, with the time."""
    path.parent.mkdir(exist_ok=True)
    handler = _File(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)


def log_to_file_only(message: str) -> None:
    """Log an error to the files alone, as whoever calls says it on the terminal."""
    record = log.makeRecord(log.name, logging.ERROR, __file__, 0, message, (), None)
    for handler in log.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


def log_to_stderr() -> None:
    """Send this project's log lines to stderr as they are, warnings marked."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LineFormatter())
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False


class _File(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        """Lose the line: the disk is full, and what matters is told elsewhere, without a traceback."""


class _LineFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        return prefix + record.getMessage()
