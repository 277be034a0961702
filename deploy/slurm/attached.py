"""An srun whose tasks live until their stdin ends, so that none outlives the process that holds it."""

import signal
import subprocess
from contextlib import suppress
from typing import Any


def end_attached(srun: "subprocess.Popen[Any]", seconds: float) -> None:
    """Close the stdin of an srun; after each `seconds` in which it has not ended, send SIGTERM, then SIGKILL."""
    with suppress(BrokenPipeError):
        if srun.stdin:
            srun.stdin.close()
    for number in (None, signal.SIGTERM, signal.SIGKILL):
        if number and srun.poll() is None:
            srun.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            srun.wait(seconds)
            break
