"""The local launcher, with ranks that are small programs instead of trainings."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

GANG = [sys.executable, "-m", "deploy.gang"]


def gang(ranks: int, program: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program as each rank; it finds its rank in `rank`."""
    code = f"import os, sys, time, signal\nrank = int(os.environ['HOROVOD_RANK'])\n{program}"
    return subprocess.run([*GANG, str(ranks), sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def test_all_ranks_run_and_know_their_place(tmp_path: Path) -> None:
    done = gang(3, f"open({str(tmp_path)!r} + f'/{{rank}}', 'w').write(os.environ['HOROVOD_SIZE'])")
    assert done.returncode == 0, done.stderr
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"0": "3", "1": "3", "2": "3"}


def test_lines_of_the_other_ranks_are_told_apart() -> None:
    done = gang(2, "print('hello', file=sys.stderr)")
    assert sorted(done.stderr.splitlines()) == ["[rank 1] hello", "hello"]


def test_a_failing_rank_is_named_and_ends_the_others() -> None:
    begin = time.monotonic()
    done = gang(3, "rank == 2 and sys.exit('no room on the device')\ntime.sleep(600)")
    assert done.returncode == 1
    assert "idxtrain: rank 2 on " in done.stderr
    assert "ended with exit code 1; its last words: no room on the device" in done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - begin < 30


def test_a_killed_rank_is_named_with_its_signal() -> None:
    done = gang(2, "rank == 1 and os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(600)")
    assert done.returncode == 1
    assert "was killed by SIGKILL" in done.stderr


def test_a_rank_deaf_to_sigterm_is_ended_all_the_same() -> None:
    done = gang(2, "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nrank or sys.exit(1)\ntime.sleep(600)")
    assert done.returncode == 1


def test_bad_input_stays_exit_code_2_in_one_line() -> None:
    done = gang(2, "rank or sys.exit(print('idxtrain: x: found y', file=sys.stderr) or 2)\ntime.sleep(600)")
    assert done.returncode == 2
    assert done.stderr == "idxtrain: x: found y\n"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_rank_outlives_the_launcher(how: signal.Signals, tmp_path: Path) -> None:
    code = (
        "import os, time\nfrom jobs.process import die_with_parent\ndie_with_parent()\n"
        f"open({str(tmp_path)!r} + '/' + str(os.getpid()), 'w')\ntime.sleep(600)"
    )
    launcher = subprocess.Popen([*GANG, "2", sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    ranks = [psutil.Process(int(path.name)) for path in tmp_path.iterdir()]
    assert len(ranks) == 2
    os.kill(launcher.pid, how)
    launcher.wait(timeout=30)
    assert psutil.wait_procs(ranks, timeout=20)[1] == []


@pytest.mark.parametrize("arguments", [[], ["2"], ["0", "true"], ["two", "true"]])
def test_usage(arguments: list[str]) -> None:
    done = subprocess.run([*GANG, *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
