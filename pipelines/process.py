"""A stage's process, seen from the pipeline: signals are passed on, the exit code is interpreted."""

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

_PASSED_ON = (0, InputError.exit_code, ResumableError.exit_code)


@dataclass(frozen=True)
class StageExit:
    """How a stage ended. `code`: 0, 2, 75, or 1 for everything else.

    `reason`: one line, where the stage could not print it itself. `stop_requested`: the stage was asked to stop, but
    finished.
    """

    code: int
    reason: str = ""
    stop_requested: bool = False


def run_process(how: Launch, stage: str, resumed_by: str) -> StageExit:
    """Run a stage until it ends. `resumed_by`: of its run, see `jobs.run_dir.RunDir`.

    SIGINT (Ctrl-C), SIGTERM, SIGUSR1 and SIGHUP are passed on as the launch's stop signal: the stage cleans up, and a
    training writes a checkpoint first. A second one, at least a second later, ends the stage at once.
    """
    # The stage's stdout goes where its log lines go: ours is for the result alone. In its own process group, the stage
    # does not get the terminal's Ctrl-C in addition to the signal passed on.
    environment = {**clean_environment(os.environ), PARENT: str(os.getpid()), **how.environment}
    memory = OutOfMemory()
    process: subprocess.Popen[bytes] | None = None
    received: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        # A closed terminal sends SIGHUP again when its shell ends: that is not a second request.
        if process is not None and process.poll() is None and not (number == signal.SIGHUP and received):
            process.send_signal(how.stop)
        received.append(number)

    previous = stop_signals.handle(pass_on)
    try:
        process = subprocess.Popen(
            how.argv, env=environment, stdout=_stderr(), stdin=subprocess.DEVNULL, process_group=0
        )
        if received:  # while the process was started
            process.send_signal(how.stop)
        code = process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return _stage_exit(code, bool(received), stage, resumed_by, memory)


def _stderr() -> int:
    """Return the descriptor of stderr: a notebook may have put an object in its place that has none."""
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        return sys.__stderr__.fileno() if sys.__stderr__ else subprocess.DEVNULL


def _stage_exit(code: int, stop_requested: bool, stage: str, resumed_by: str, memory: OutOfMemory) -> StageExit:
    """Interpret what `Popen.wait` returned."""
    if code >= 0:
        passed_on = code if code in _PASSED_ON else IdxtrainError.exit_code
        return StageExit(passed_on, stop_requested=not code and stop_requested)
    resumes = f"{resumed_by} resumes it"
    if stop_requested:
        return StageExit(ResumableError.exit_code, f"{stage}: stopped on request; {resumes}")
    killed = f"{stage}: was killed by {signal.Signals(-code).name}{memory.likely_cause(-code)}"
    return StageExit(IdxtrainError.exit_code, f"{killed}{' ' if killed.endswith('?') else '; '}{resumes}")
