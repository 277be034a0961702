"""How each program of the project ends: one line on stderr, and the exit code of the error. See `jobs.errors`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from jobs.errors import IdxtrainError, ReportedError


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn the project's errors, and any OSError, into one line on stderr and the exit code.

    A ReportedError prints nothing: its line is on stderr already.
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
