"""The errors a stage may end with, and the exit code each one means."""


class IdxtrainError(Exception):
    """Something failed that is not the user's input (exit code 1). The message is one line."""

    exit_code = 1


class InputError(IdxtrainError):
    """Bad input or usage (exit code 2).

    The message is one line: the file, offset or option; what was found and what was expected; the mend.
    """

    exit_code = 2


class ReportedError(IdxtrainError):
    """Another process has told on stderr what went wrong; only its exit code is left to pass on."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"ended with exit code {exit_code}")
        self.exit_code = exit_code
