"""The exit codes of `idxtrain`, for every command: see `jobs.errors` for what each one means."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from jobs import stop_signals
from jobs.errors import ResumableError
from jobs.exit_codes import exit_codes
from jobs.logs import log_to_stderr
from pipelines.cli import stdout


@contextmanager
def reported() -> Iterator[None]:
    """Report each error as one line on stderr and exit with its code. Use it as a decorator or in a `with`.

    A request to stop, by Ctrl-C or any signal of `jobs.stop_signals`, exits with code 75.
    """
    log_to_stderr()
    handlers: dict[signal.Signals, Any] = {}
    requests = stop_signals.Requests()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if requests.note():
            raise KeyboardInterrupt

    try:
        handlers = stop_signals.handle(interrupt)  # until here a signal ends the process at once: see startup
        with exit_codes():
            try:
                yield
            except OSError:
                if stdout.is_lost():  # `main` reports it
                    sys.exit(1)
                raise
        if requests.count:  # a library may swallow the KeyboardInterrupt
            print("idxtrain: asked to stop, but the command had finished", file=sys.stderr)
    except KeyboardInterrupt:
        print("idxtrain: interrupted", file=sys.stderr)
        sys.exit(ResumableError.exit_code)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
