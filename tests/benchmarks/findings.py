"""python -m tests.benchmarks.findings DATA [ROUNDS]: what looking at the images costs prepare, in CPU time.

DATA: a folder of archives. In each round, prepare makes the dataset without looking and with it. Printed is the user
and system time of all processes, Java and Spark's workers included: other programs on the machine change it little.
"""

import ctypes
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
_IDXTRAIN = str(Path(sys.executable).with_name("idxtrain"))
_NO_VIEWS = {"views": False}


def main(data: Path, rounds: int) -> None:
    """Print the CPU time of each round, and the median of the ratios."""
    # Spark leaves workers behind when it ends. They become this process's children, so that their time is counted.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    ratios = []
    for number in range(1, rounds + 1):
        without, looking = (_seconds(data, mode) for mode in ("without", "looking"))
        ratios.append(looking / without)
        print(f"round {number}: {without:.2f} s without, {looking:.2f} s looking: {100 * (ratios[-1] - 1):+.1f} %")
    print(f"median: {100 * (statistics.median(ratios) - 1):+.1f} %")


def _seconds(data: Path, mode: str) -> float:
    """Return the CPU time of a prepare."""
    with tempfile.TemporaryDirectory() as work:
        fetch = [_IDXTRAIN, "fetch", "--data", str(data.resolve()), "--work", work, "--run-id", "r"]
        subprocess.run(fetch, check=True, capture_output=True)
        _wait_for_all()
        before = _cpu_seconds()
        prepare = [sys.executable, "-m", "tests.benchmarks.findings", "--prepare", f"{work}/runs/r", mode]
        subprocess.run(prepare, check=True, capture_output=True)
        _wait_for_all()
        return _cpu_seconds() - before


def _wait_for_all() -> None:
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _prepare(run: Path, mode: str) -> None:
    from jobs.prepare.__main__ import main as prepare
    from jobs.prepare.decode import Decoder
    from jobs.run_dir import RunDir

    with ExitStack() as changes:
        if mode == "without":
            changes.enter_context(patch("jobs.prepare.build.look"))
            changes.enter_context(patch("jobs.prepare.build.Decoder", lambda **fields: Decoder(**fields | _NO_VIEWS)))
        prepare(RunDir(run))


if __name__ == "__main__":
    if sys.argv[1] == "--prepare":
        _prepare(Path(sys.argv[2]), sys.argv[3])
    else:
        main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 5)
