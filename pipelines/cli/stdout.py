"""A result that cannot be written is reported and never counts as success."""

import os
import signal
import sys
from typing import Any, TextIO


class WatchedStream:
    """Standard output that remembers why writing to it failed. Everything else is left to the stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.fault: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text; raise OSError where that fails."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self.fault = error
            raise

    def flush(self) -> None:
        """Flush the buffer; raise OSError where that fails."""
        try:
            self._stream.flush()
        except OSError as error:
            self.fault = error
            raise

    def finish(self) -> None:
        """Flush at the end of the program; end the process if any output was lost.

        If the reader is gone (`| head -1`), the process ends by SIGPIPE without a message, like any program in a pipe.
        If stdout is closed or its disk is full, it prints one line on stderr and exits with code 1.
        """
        try:
            self.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what Python still flushes as it ends
        if self.fault is None:
            return
        if isinstance(self.fault, BrokenPipeError):
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGPIPE)
        print(f"idxtrain: stdout: cannot be written ({self.fault.strerror}), so the result is lost", file=sys.stderr)
        sys.exit(1)


def watch() -> WatchedStream:
    """Watch this process's stdout from now on."""
    watched = WatchedStream(sys.stdout)
    sys.stdout = watched
    return watched


def is_lost() -> bool:
    """Return whether any printed output could not be written; False unless `watch` was called."""
    return getattr(sys.stdout, "fault", None) is not None
