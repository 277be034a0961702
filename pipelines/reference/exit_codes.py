"""What each exit code means."""

from jobs.errors import UNEXPECTED, IdxtrainError, InputError, PeerLostError, ResumableError

EXIT_CODES = {
    0: "Done.",
    IdxtrainError.exit_code: (
        "Failed, but not by the input: no space left, no answer from the registry. Also: `doctor` found a failing "
        "check, or `models sync` left runs unregistered."
    ),
    InputError.exit_code: "Bad input or usage. One line on stderr names the file or option and the fix.",
    UNEXPECTED: "A stage hit a bug. The traceback is in the run's `logs/`. A retry may help.",
    PeerLostError.exit_code: "A rank lost another one. Only ranks end so; their launcher reports the rank that failed.",
    ResumableError.exit_code: "Stopped on request, all progress saved. The same command with `--run-id ID` resumes it.",
}
