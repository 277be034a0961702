"""The launcher on one machine, with small programs as ranks instead of trainings."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from jobs.process import PARENT

LAUNCHER = [sys.executable, "-m", "deploy.launcher"]


def launch(ranks: int, program: str, *options: object) -> subprocess.CompletedProcess[str]:
    """Run a Python program as each rank, by default without restarts; `rank` holds its number."""
    code = f"import os, sys, time, signal\nrank = int(os.environ.get('HOROVOD_RANK', '0'))\n{program}"
    command = [*LAUNCHER, "--np", str(ranks), "--max-restarts", "0", *map(str, options), sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=90)


def test_every_rank_runs_and_knows_its_number_and_the_world_size(tmp_path: Path) -> None:
    done = launch(3, f"open({str(tmp_path)!r} + f'/{{rank}}', 'w').write(os.environ['HOROVOD_SIZE'])")
    assert done.returncode == 0, done.stderr
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"0": "3", "1": "3", "2": "3"}


def test_stderr_of_ranks_above_0_is_prefixed_with_the_rank() -> None:
    done = launch(2, "print('hello', file=sys.stderr)")
    assert sorted(done.stderr.splitlines()) == ["[rank 1] hello", "hello"]


def test_a_failing_rank_is_reported_and_ends_the_others() -> None:
    begin = time.monotonic()
    done = launch(3, "rank == 2 and sys.exit('no space left')\ntime.sleep(600)")
    assert done.returncode == 1
    assert "idxtrain: rank 2 on " in done.stderr
    assert "exited with code 1; its last line: no space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - begin < 30


def test_a_killed_rank_is_reported_with_its_signal() -> None:
    done = launch(2, "rank == 1 and os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(600)")
    assert done.returncode == 1
    assert "was killed by SIGKILL (last step 0); was there enough memory?" in done.stderr


def test_sigterm_to_a_rank_that_is_still_starting_is_a_request_to_stop() -> None:
    """Slurm sends it to the ranks alone, before it preempts a job that may end in its own time."""
    done = launch(2, "rank == 1 and os.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(600)")
    assert (done.returncode, done.stderr) == (75, "idxtrain: train: stopped on request\n")


@pytest.mark.long
def test_a_phase_longer_than_the_limit_is_no_stall_while_it_makes_progress(tmp_path: Path) -> None:
    busy = "beat.enter('validation', 7)\nfor _ in range(16):\n    time.sleep(0.5)\n    beat.progressed('validation')"
    done = launch(2, BEATING + busy, "--run-dir", tmp_path, "--stall-seconds", 5)
    assert done.returncode == 0, done.stderr


def test_a_rank_that_ignores_sigterm_is_killed_when_another_fails() -> None:
    done = launch(2, "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nrank or sys.exit(1)\ntime.sleep(600)")
    assert done.returncode == 1


def test_bad_input_in_a_rank_keeps_exit_code_2_and_its_one_line() -> None:
    done = launch(2, "rank or sys.exit(print('idxtrain: x: found y', file=sys.stderr) or 2)\ntime.sleep(600)")
    assert done.returncode == 2
    assert done.stderr == "idxtrain: x: found y\n"


BEATING = "from jobs.train.telemetry.heartbeat import Heartbeat\nbeat = Heartbeat(rank, os.environ)\nbeat.begun()\n"


def test_a_suspended_rank_is_reported_within_the_stall_time(tmp_path: Path) -> None:
    begin = time.monotonic()
    # Time for a heartbeat of step 7, but far less than the stall time, after which rank 0 makes no progress either.
    stop = "beat.enter('step', 7)\ntime.sleep(2)\nrank == 1 and os.kill(os.getpid(), signal.SIGSTOP)\ntime.sleep(600)"
    done = launch(2, BEATING + stop, "--run-dir", tmp_path, "--stall-seconds", 10)
    assert done.returncode == 1
    assert "rank 1 on " in done.stderr
    assert "sent no heartbeat for" in done.stderr
    assert "(last step 7)" in done.stderr
    assert time.monotonic() - begin < 40


@pytest.mark.long
def test_a_rank_that_hangs_while_the_others_wait_for_it_is_reported(tmp_path: Path) -> None:
    hang = "beat.enter('input' if rank == 1 else 'step', 9)\ntime.sleep(600)"
    done = launch(3, BEATING + hang, "--run-dir", tmp_path, "--stall-seconds", 5)
    assert done.returncode == 1
    assert "idxtrain: train: rank 1 on " in done.stderr
    assert (
        "made no progress in phase input for 5 s (last step 9); fix: if it is only slow, raise launch.stall"
        in done.stderr
    )


def test_ranks_restart_after_a_kill_and_the_history_records_it(tmp_path: Path) -> None:
    once = (
        f"flag = {str(tmp_path)!r} + '/died'\n"
        "if rank == 1 and not os.path.exists(flag):\n    open(flag, 'w')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "time.sleep(1)"
    )
    done = launch(2, once, "--run-dir", tmp_path, "--max-restarts", 3)
    assert done.returncode == 0, done.stderr
    assert "restart 1 of 3" in done.stderr
    (entry,) = map(json.loads, (tmp_path / "logs/restarts.jsonl").read_text().splitlines())
    assert (entry["rank"], entry["ranks"], entry["what"]) == (1, 2, "was killed by SIGKILL")


def test_restarts_end_at_max_restarts() -> None:
    done = launch(1, "os.kill(os.getpid(), signal.SIGKILL)", "--max-restarts", 2)
    assert done.returncode == 1
    assert done.stderr.count("was killed by SIGKILL") == 3


def test_a_restart_without_progress_uses_one_rank_fewer_down_to_min_np() -> None:
    failing = "print(os.environ['HOROVOD_SIZE'], file=sys.stderr)\nrank == 2 and os.kill(os.getpid(), signal.SIGKILL)"
    done = launch(3, failing + "\ntime.sleep(1)", "--max-restarts", 3, "--min-np", 2)
    assert done.returncode == 0, done.stderr
    assert "train: restarting 2 ranks from the last checkpoint (restart 2 of 3)" in done.stderr


@pytest.mark.parametrize("code", [1, 2, 75])
def test_an_error_that_a_restart_cannot_fix_is_not_retried(code: int) -> None:
    done = launch(1, f"print('idxtrain: no', file=sys.stderr)\nsys.exit({code})", "--max-restarts", 3)
    assert done.returncode == code
    assert done.stderr == "idxtrain: no\n"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_stops_all_ranks_and_a_second_one_kills_them(how: signal.Signals, tmp_path: Path) -> None:
    program = (
        "import os, signal, time\n"
        f"path = {str(tmp_path)!r} + '/' + os.environ['HOROVOD_RANK']\n"
        "signal.signal(signal.SIGTERM, lambda *_: open(path + '-stopping', 'w'))\nopen(path, 'w')\n"
        "while True: time.sleep(0.1)"
    )
    launcher = subprocess.Popen([*LAUNCHER, "--np", "2", sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
    launcher.send_signal(how)
    wait_for(lambda: len(list(tmp_path.glob("*-stopping"))) == 2)
    assert launcher.poll() is None
    time.sleep(1.1)  # signals within a second are one request
    launcher.send_signal(how)
    assert launcher.wait(timeout=20) == 75


def test_the_death_of_a_multithreaded_parent_is_one_request_to_stop(tmp_path: Path) -> None:
    """The kernel sends a signal for each thread that ends. The rank still stops by itself, instead of being killed."""
    slow = (
        "import os, signal, time\nfrom pathlib import Path\nfrom jobs.process import die_with_parent\n"
        f"die_with_parent()\nhere = Path({str(tmp_path)!r})\nrequests = []\n"
        "signal.signal(signal.SIGTERM, lambda *_: requests.append(1))\n(here / 'up').touch()\n"
        "while not requests: time.sleep(0.05)\ntime.sleep(2)\n(here / 'saved').touch()\nos._exit(75)"
    )
    command = [*LAUNCHER, "--np", "1", sys.executable, "-c", slow]
    parent = (
        "import os, subprocess, sys, threading, time\n"
        f"environment = {{**os.environ, {PARENT!r}: str(os.getpid())}}\n"
        f"child = subprocess.Popen({command!r}, env=environment, stderr=subprocess.DEVNULL, process_group=0)\n"
        "threading.Thread(target=time.sleep, args=(600,)).start()\nprint(child.pid, flush=True)\ntime.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        assert process.stdout
        launcher = psutil.Process(int(process.stdout.readline()))
        wait_for((tmp_path / "up").exists)
        process.kill()
    wait_for(lambda: not launcher.is_running() or launcher.status() == psutil.STATUS_ZOMBIE)
    assert (tmp_path / "saved").exists()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_rank_outlives_the_launcher(how: signal.Signals, tmp_path: Path) -> None:
    code = (
        "import os, time\nfrom jobs.process import die_with_parent\ndie_with_parent()\n"
        f"open({str(tmp_path)!r} + '/' + str(os.getpid()), 'w')\ntime.sleep(600)"
    )
    launcher = subprocess.Popen([*LAUNCHER, "--np", "2", sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
    ranks = [psutil.Process(int(path.name)) for path in tmp_path.iterdir()]
    assert len(ranks) == 2
    os.kill(launcher.pid, how)
    launcher.wait(timeout=30)
    assert psutil.wait_procs(ranks, timeout=20)[1] == []


@pytest.mark.parametrize("arguments", [[], ["--np", "2"], ["--np", "0", "true"], ["--np", "two", "true"]])
def test_bad_usage_exits_with_2(arguments: list[str]) -> None:
    done = subprocess.run([*LAUNCHER, *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
