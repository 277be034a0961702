"""What each exit code means."""

from jobs.errors import UNEXPECTED, IdxtrainError, InputError, PeerLostError, ResumableError

EXIT_CODES = {
    0: "Done.",
    IdxtrainError.exit_code: (
        "Failed, but not because of the input: no space left, or the registry is unreachable. Also: a check of "
        "`doctor` failed, or `models sync` left runs unregistered."
    ),
    InputError.exit_code: "Bad input or usage. One line on stderr names the file or option and the fix.",
    UNEXPECTED: "A stage hit a bug. The traceback is in the run's `logs/`. A retry may help.",
    PeerLostError.exit_code: "A rank lost another rank. Only ranks end with this; their launcher names the lost rank.",
    ResumableError.exit_code: (
        "Stopped on request, or cut off from an object store, all progress saved. The same command with `--run-id ID` "
        "resumes it."
    ),
}
