"""A result that cannot be written: reported, and never taken for success."""

import os
import signal
import sys
from typing import Any, TextIO


class Watched:
    """Standard output that remembers how writing to it failed. All else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.fault: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write; raise OSError where that fails."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self.fault = error
            raise

    def flush(self) -> None:
        """Write out what is held back; raise OSError where that fails."""
        try:
            self._stream.flush()
        except OSError as error:
            self.fault = error
            raise

    def finish(self) -> None:
        """Write out what was printed, at the end of the program, which ends here where anything of it was lost.

        Where the reader has gone (`| head -1`), by SIGPIPE and without a word, as any program in a pipe. Where stdout
        is closed or its disk is full, with a line on stderr and exit code 1.
        """
        try:
            self.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what Python still writes out as it ends
        if self.fault is None:
            return
        if isinstance(self.fault, BrokenPipeError):
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGPIPE)
        print(f"idxtrain: stdout: cannot be written ({self.fault.strerror}), so the result is lost", file=sys.stderr)
        sys.exit(1)


def watch() -> Watched:
    """Watch this process's stdout from now on."""
    watched = Watched(sys.stdout)
    sys.stdout = watched
    return watched


def is_lost() -> bool:
    """Tell whether something that was printed could not be written; always False where nobody watches."""
    return getattr(sys.stdout, "fault", None) is not None
