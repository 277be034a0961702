"""python -m deploy.slurm.in_scratch COMMAND…: run a command whose temporary files lie in a private folder on its node.

It passes on signals that ask for a stop, and ends with the command's exit code. `deploy.slurm.task` needs none of it.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

from deploy.slurm.scratch import private_folder, scratch_parent
from jobs import stop_signals
from jobs.exit_codes import exit_codes
from jobs.process import PARENT


def main(command: Sequence[str]) -> int:
    """Run the command; return its exit code, for a signal 128 and its number, as a shell does."""
    name = f"{os.environ.get('SLURM_JOB_ID', os.getpid())}-rank"
    with private_folder(scratch_parent(os.environ), name) as folder:
        own = {"TMPDIR": str(folder), PARENT: str(os.getpid())}
        process = subprocess.Popen(command, env=os.environ | own)

        def pass_signal(number: int, frame: FrameType | None) -> None:
            with suppress(ProcessLookupError):
                process.send_signal(number)

        stop_signals.handle(pass_signal)
        code = process.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    with exit_codes():
        sys.exit(main(sys.argv[1:]))
