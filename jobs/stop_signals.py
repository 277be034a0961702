"""The signals that ask a process to stop, and which of them count as one request."""

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

# SIGHUP: the terminal was closed. SIGUSR1: batch systems send it before a time limit.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)

_ONE_REQUEST_SECONDS = 1.0


def handle(handler: Callable[[int, FrameType | None], Any]) -> dict[signal.Signals, Any]:
    """Install a handler for all signals that ask to stop; return the previous handlers.

    A signal that is already ignored stays ignored, except SIGTERM. Under `nohup` that is SIGHUP, where the process is
    meant to outlive its terminal; in a script's background job it is SIGINT, where Ctrl-C is meant for others. Python
    allows handlers in its main thread alone: in any other thread this installs none.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    handled = [each for each in SIGNALS if each == signal.SIGTERM or signal.getsignal(each) != signal.SIG_IGN]
    return {each: signal.signal(each, handler) for each in handled}


class Requests:
    """Counts requests to stop. Signals within a second of the first one are the same request.

    One event may arrive as several signals. The kernel signals a process once for each thread of its parent that ends,
    5 ms apart (see `jobs.process`). Both kernel and shell report a closed terminal.
    """

    def __init__(self) -> None:
        self.count = 0
        self._first = 0.0

    def note(self) -> bool:
        """Count a signal; return whether it is a new request."""
        now = time.monotonic()
        if self.count and now - self._first < _ONE_REQUEST_SECONDS:
            return False
        self._first = self._first or now
        self.count += 1
        return True
