"""A stage's process as the pipeline sees it: killed, stopped, or ignoring the request; with real processes."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.launcher.launch import Launch
from jobs.memory import OutOfMemory
from pipelines.process import StageExit, run_process


def run(program: str) -> StageExit:
    return run_process(Launch((sys.executable, "-c", program)), "evaluate", "`idxtrain run --run-id r1`")


def test_a_stage_that_is_killed_ends_with_a_line_that_names_it_and_the_likely_cause() -> None:
    ended = run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert ended == StageExit(
        1, "evaluate: was killed by SIGKILL; was there enough memory? `idxtrain run --run-id r1` resumes it"
    )


def test_a_crash_is_not_blamed_on_memory() -> None:
    ended = run("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert ended == StageExit(1, "evaluate: was killed by SIGSEGV; `idxtrain run --run-id r1` resumes it")


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (1, 1), (2, 2), (70, 1), (71, 1), (75, 75)])
def test_a_stage_that_exits_by_itself_gets_no_further_message(code: int, expected: int) -> None:
    assert run(f"import sys; sys.exit({code})") == StageExit(expected)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_stop_signal_is_passed_on_to_the_stage(number: signal.Signals, tmp_path: Path) -> None:
    program = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(75));"
        f"open({str(tmp_path / 'up')!r}, 'w'); time.sleep(60)"
    )
    once((tmp_path / "up").exists, lambda: os.kill(os.getpid(), number))
    assert run(program) == StageExit(75)


def test_a_closed_terminal_is_one_request_even_if_the_shell_sends_sighup_again_later(tmp_path: Path) -> None:
    program = (
        "import signal, sys, time; asked = []; signal.signal(signal.SIGTERM, lambda *_: asked.append(1));"
        f"open({str(tmp_path / 'up')!r}, 'w'); time.sleep(2); sys.exit(75 if len(asked) == 1 else 3)"
    )

    def hang_up() -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(1.1)

    once((tmp_path / "up").exists, hang_up)
    assert run(program) == StageExit(75)


def test_a_stage_that_finishes_after_a_stop_request_is_reported_as_such(tmp_path: Path) -> None:
    program = (
        "import signal, time; signal.signal(signal.SIGTERM, lambda *_: None);"
        f"open({str(tmp_path / 'up')!r}, 'w'); time.sleep(1)"
    )
    once((tmp_path / "up").exists, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert run(program) == StageExit(0, stop_requested=True)


def test_a_stage_killed_by_the_signal_passed_on_counts_as_stopped_on_request(tmp_path: Path) -> None:
    once((tmp_path / "up").exists, lambda: os.kill(os.getpid(), signal.SIGHUP))
    ended = run(f"import time; open({str(tmp_path / 'up')!r}, 'w'); time.sleep(60)")
    assert ended == StageExit(75, "evaluate: stopped on request; `idxtrain run --run-id r1` resumes it")


def once(condition: Callable[[], bool], act: Callable[[], None]) -> None:
    def wait() -> None:
        while not condition():
            pause.wait(0.02)
        act()

    pause = threading.Event()
    threading.Thread(target=wait, daemon=True).start()


def test_under_nohup_a_closed_terminal_stops_nothing(tmp_path: Path) -> None:
    """A process that starts with SIGHUP ignored keeps ignoring it, and so do the stages it starts."""
    program = (
        "import signal, sys\nfrom deploy.launcher.launch import Launch\nfrom pipelines.process import run_process\n"
        "stage = 'import os, signal; os.kill(os.getppid(), signal.SIGHUP); os.kill(os.getpid(), signal.SIGHUP)'\n"
        "sys.exit(run_process(Launch((sys.executable, '-c', stage)), 'train', '`idxtrain run --run-id r1`').code)"
    )
    assert subprocess.run(["nohup", sys.executable, "-c", program], stderr=subprocess.PIPE).returncode == 0


@pytest.mark.parametrize(
    ("files", "counted"),
    [
        ({"cgroup": "0::/job\n", "fs/job/memory.events": "oom 3\noom_kill {}\n"}, True),
        ({"cgroup": "4:memory:/job\n0::/\n", "fs/memory/job/memory.oom_control": "under_oom 0\noom_kill {}\n"}, True),
        ({"vmstat": "pgfault 7\noom_kill {}\n"}, True),  # no cgroups at all
        ({"cgroup": "0::/job\n", "fs/job/memory.events": "oom_kill 0\n", "vmstat": "oom_kill {}\n"}, False),  # others'
    ],
)
def test_the_kernels_oom_counter_decides_whether_memory_ran_out(
    files: dict[str, str], counted: bool, tmp_path: Path
) -> None:
    def put(kills: int) -> None:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text.format(kills))

    put(3)
    memory = OutOfMemory(tmp_path / "cgroup", tmp_path / "fs", tmp_path / "vmstat")
    assert memory.likely_cause(signal.SIGKILL) == "; was there enough memory?"
    put(4)
    assert (memory.likely_cause(signal.SIGKILL) == ", because memory ran out; give it more") == counted
    assert memory.likely_cause(signal.SIGSEGV) == ""
