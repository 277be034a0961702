"""The errors a stage may end with, and the exit code of each."""

_LONGEST = 2000  # characters of a message


def printable(text: str) -> str:
    """Return text as one line that is safe on a terminal: text from a file may hold anything, at any length.

    Escapes line breaks and control characters. Cuts the middle out of a long text.
    """
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} … {line[3 - _LONGEST // 2 :]}"


def one_line(error: BaseException) -> str:
    """Return an error's text on one line; pydantic's errors as `key: message`, joined by semicolons."""
    details = getattr(error, "errors", None)
    if callable(details):
        return printable("; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in details()))
    return printable(" ".join(str(error).split()))


class IdxtrainError(Exception):
    """A failure that the user's input did not cause (exit code 1). The message becomes one line."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class InputError(IdxtrainError):
    """Bad input or usage (exit code 2).

    The message is one line: file, offset or option; what was found and what was expected; the fix.
    """

    exit_code = 2


class ReportedError(IdxtrainError):
    """An error that stderr already shows: only its exit code is passed on. `reason`: for other readers."""

    def __init__(self, exit_code: int, reason: str = "") -> None:
        super().__init__(reason or f"ended with exit code {exit_code}")
        self.exit_code = exit_code


class ResumableError(IdxtrainError):
    """Stopped on request with all work saved: the same command resumes it (exit code 75).

    75 is EX_TEMPFAIL of sysexits.h, which batch systems read as "try again".
    """

    exit_code = 75


class StoreLostError(ResumableError):
    """An object store does not answer any more: the same command, given later, resumes (exit code 75)."""


class PeerLostError(IdxtrainError):
    """A rank cannot continue because another one ended (exit code 71). The launcher reports only the other one."""

    exit_code = 71


UNEXPECTED = 70  # exit code of an unforeseen exception, EX_SOFTWARE of sysexits.h: a retry may help
