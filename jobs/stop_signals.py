"""The signals that ask a process to stop, and which of them are one request."""

import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

# SIGHUP: the terminal was closed. SIGUSR1: what batch systems warn with before a time limit.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)

_ONE_REQUEST_SECONDS = 1.0


def handle(handler: Callable[[int, FrameType | None], Any]) -> dict[signal.Signals, Any]:
    """Install a handler for all signals that ask to stop; return the handlers before.

    What is ignored already stays so, but for SIGTERM: SIGHUP under `nohup`, where the process is meant to outlive its
    terminal; SIGINT in a script's background job, which Ctrl-C is not meant for.
    """
    wanted = [each for each in SIGNALS if each == signal.SIGTERM or signal.getsignal(each) != signal.SIG_IGN]
    return {each: signal.signal(each, handler) for each in wanted}


class Requests:
    """Counts requests to stop. Signals within a second of the first are the same request.

    One death may be announced several times: the kernel signals a process once for each thread of its parent that ends
    (see `jobs.process`), 5 ms apart; a closed terminal is announced by the kernel and by the shell.
    """

    def __init__(self) -> None:
        self.count = 0
        self._first = 0.0

    def note(self) -> bool:
        """Note a signal; return whether it is a new request."""
        now = time.monotonic()
        if self.count and now - self._first < _ONE_REQUEST_SECONDS:
            return False
        self._first = self._first or now
        self.count += 1
        return True
