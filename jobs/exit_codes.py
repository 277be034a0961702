"""How a program of ours ends: one line on stderr, and the exit code that fits the error. See `jobs.errors`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from jobs.errors import IdxtrainError, ReportedError


@contextmanager
def exit_codes() -> Iterator[None]:
    """End the process where its body raises one of our errors or an OSError, with one line on stderr.

    A ReportedError has had its line already.
    """
    try:
        yield
    except ReportedError as error:
        sys.exit(error.exit_code)
    except IdxtrainError as error:
        print(f"idxtrain: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
    except OSError as error:  # no space left, no such command
        print(f"idxtrain: {error}", file=sys.stderr, flush=True)
        sys.exit(IdxtrainError.exit_code)
