"""The errors a stage may end with, and the exit code each one means."""

_LONGEST = 2000  # characters of a message


def printable(text: str) -> str:
    """Return text as one line that a terminal shows as it is: what came from a file may hold anything, at any length.

    Line breaks, control characters and the like are escaped; of a long text head and end are left.
    """
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} … {line[3 - _LONGEST // 2 :]}"


def one_line(error: BaseException) -> str:
    """Return an error's text on one line; pydantic's errors as `key: what is wrong`, joined by semicolons."""
    details = getattr(error, "errors", None)
    if callable(details):
        return printable("; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in details()))
    return printable(" ".join(str(error).split()))


class IdxtrainError(Exception):
    """Something failed that is not the user's input (exit code 1). The message is made one line."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class InputError(IdxtrainError):
    """Bad input or usage (exit code 2).

    The message is one line: the file, offset or option; what was found and what was expected; the mend.
    """

    exit_code = 2


class ReportedError(IdxtrainError):
    """What went wrong stands on stderr already: only the exit code is left to pass on. `reason`: for other readers."""

    def __init__(self, exit_code: int, reason: str = "") -> None:
        super().__init__(reason or f"ended with exit code {exit_code}")
        self.exit_code = exit_code


class ResumableError(IdxtrainError):
    """Stopped as asked, with all that was done kept: the same command again goes on (exit code 75).

    75 is EX_TEMPFAIL of sysexits.h, which batch systems take for "try again".
    """

    exit_code = 75


class PeerLostError(IdxtrainError):
    """A rank cannot go on because another one is gone (exit code 71): its launcher tells of that one alone."""

    exit_code = 71


UNEXPECTED = 70  # exit code for what nobody foresaw, EX_SOFTWARE of sysexits.h: trying again may help
