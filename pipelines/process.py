"""A stage's process, from this one's side: signals passed on, its exit code understood."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from types import FrameType

from deploy.launcher.launch import Launch
from jobs import stop_signals
from jobs.errors import IdxtrainError, InputError, ResumableError
from jobs.memory import OutOfMemory
from jobs.process import PARENT
from jobs.python import clean_environment

_MEANINGFUL = (0, InputError.exit_code, ResumableError.exit_code)


@dataclass(frozen=True)
class Ended:
    """How a stage ended. `code`: 0, 2, 75, or 1 for all others. `why`: one line where the stage could not say so.

    `was_asked`: it came to its end all the same, when it was asked to stop.
    """

    code: int
    why: str = ""
    was_asked: bool = False


def run_process(how: Launch, stage: str, run_id: str) -> Ended:
    """Run a stage to its end.

    SIGINT (Ctrl-C), SIGTERM, SIGUSR1 and SIGHUP are passed on as the launch's stop signal: the stage tidies up, a
    training writes a checkpoint first. A second one, a second later or more, ends it at once.
    """
    # stdout is for the result alone, so a stage's goes where its log lines go. In a group of its own, the stage does
    # not see the terminal's Ctrl-C beside what is passed on.
    environment = {**clean_environment(os.environ), PARENT: str(os.getpid()), **how.environment}
    memory = OutOfMemory()
    process: subprocess.Popen[bytes] | None = None
    seen: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        # A terminal that is closed says so again when the shell ends, which is nobody's impatience.
        if process is not None and process.poll() is None and not (number == signal.SIGHUP and seen):
            process.send_signal(how.stop)
        seen.append(number)

    previous = stop_signals.handle(pass_on)
    try:
        process = subprocess.Popen(
            how.argv, env=environment, stdout=sys.stderr, stdin=subprocess.DEVNULL, process_group=0
        )
        if seen:  # while it was started
            process.send_signal(how.stop)
        code = process.wait()
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)
    if code >= 0:
        return Ended(code if code in _MEANINGFUL else IdxtrainError.exit_code, was_asked=not code and bool(seen))
    resumes = f"`idxtrain run --run-id {run_id}` resumes it"
    if seen:
        return Ended(ResumableError.exit_code, f"{stage}: stopped as asked; {resumes}")
    killed = f"{stage}: was killed by {signal.Signals(-code).name}{memory.likely_cause(-code)}"
    return Ended(IdxtrainError.exit_code, f"{killed}{' ' if killed.endswith('?') else '; '}{resumes}")
