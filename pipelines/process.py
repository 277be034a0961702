"""A stage's process, from this one's side: signals passed on, its exit code understood."""

import os
import signal
import subprocess
import sys
from types import FrameType

from deploy.launch import Launch
from jobs.errors import IdxtrainError, InputError, ResumableError
from jobs.process import PARENT
from jobs.python import clean_environment

_MEANINGFUL = (0, InputError.exit_code, ResumableError.exit_code)
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def run_process(how: Launch) -> int:
    """Run a stage to its end and return its exit code: 0, 2, 75, or 1 for all others.

    SIGINT (Ctrl-C), SIGTERM and SIGUSR1 are passed on as the launch's stop signal: the stage tidies up, a training
    writes a checkpoint first. A second one ends it at once.
    """
    # stdout is for the result alone, so a stage's goes where its log lines go. In a group of its own, the stage does
    # not see the terminal's Ctrl-C beside what is passed on.
    environment = {**clean_environment(os.environ), PARENT: str(os.getpid()), **how.environment}
    process = subprocess.Popen(how.argv, env=environment, stdout=sys.stderr, stdin=subprocess.DEVNULL, process_group=0)
    signals = 0

    def pass_on(number: int, frame: FrameType | None) -> None:
        nonlocal signals
        signals += 1
        if process.poll() is None:
            process.send_signal(how.stop)

    previous = {number: signal.signal(number, pass_on) for number in _SIGNALS}
    try:
        code = process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if signals and code < 0:  # it had no time to say so
        print("idxtrain: stopped as asked", file=sys.stderr)
        return ResumableError.exit_code
    return code if code in _MEANINGFUL else IdxtrainError.exit_code
