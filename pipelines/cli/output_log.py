"""One rotating file for all output of a command and its stages, for runs that no one watches."""

import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from jobs.errors import InputError

MOST_BYTES, KEPT = 1 << 20, 5  # the file rotates at 1 MiB; five old ones are kept
_NOTIFY = "--notify"


@contextmanager
def output_to(path: Path | None) -> Iterator[None]:
    """Send file descriptors 1 and 2 to a file, so that output of libraries and child processes goes there too.

    The file is rotated before the first line, never during a run. None: change nothing. Raises InputError.
    """
    if path is None:
        yield
        return
    target = _open(path)
    sys.stdout.flush()
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)
    _mark(f"begins: {shlex.join(_without_secrets(sys.argv[1:]))}")
    try:
        yield
    finally:
        sys.stdout.flush()
        _mark("ends")


def _open(path: Path) -> int:
    from logging.handlers import RotatingFileHandler

    from jobs.lease import Lease

    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with Lease(path.with_name(f".{path.name}.json"), f"--log {path}", waits=True):  # or two processes rotate twice
            if path.exists() and path.stat().st_size > MOST_BYTES:
                handler = RotatingFileHandler(path, backupCount=KEPT, delay=True)
                handler.doRollover()
                handler.close()
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:
        raise InputError(f"--log {path}: cannot be written ({error.strerror}); fix: give another file") from error


def _without_secrets(arguments: Sequence[str]) -> list[str]:
    """Return a command line without its --notify command, which may hold a secret address."""
    shown = [f"{_NOTIFY}=…" if each.startswith(f"{_NOTIFY}=") else each for each in arguments]
    return ["…" if before == _NOTIFY else each for before, each in zip(["", *shown], shown, strict=False)]


def _mark(event: str) -> None:
    print(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} process {os.getpid()} {event}", file=sys.stderr, flush=True)
