"""Progress on a terminal, as a person sees it, and in a log."""

import subprocess
import sys

import pytest

from tests.support.terminal import run_on_terminal

# Long work with messages in between, one of them longer than a narrow terminal.
TRAINING = """
import time
from jobs.logs import log, log_to_stderr
from jobs.progress import Progress
log_to_stderr()
with Progress("train", 645, "steps") as progress:
    for step in range(50, 645, 50):
        progress.update(step, "loss 0.0123, batch accuracy 0.984, 12,345 images/s")
        if step == 300:
            log.info("train: step 300 of 645: validation accuracy 0.9876 (62 errors in 5000)")
            log.warning("a warning")
        time.sleep(0.06)
log.info("train: done")
"""
BROKEN = """
import time
from jobs.progress import Progress
with Progress("train", 645, "steps") as progress:
    progress.update(100)
    time.sleep(0.2)
    raise SystemExit(1)
"""
STOPPED_EARLY = """
import time
from jobs.progress import Progress
with Progress("train", 645, "steps") as progress:
    progress.update(400)
    time.sleep(0.2)
    progress.ended(430)
"""


@pytest.mark.parametrize("columns", [80, 130, 200])
def test_amounts_and_time_left_stay_whole_and_messages_have_lines_of_their_own(columns: int) -> None:
    code, seen, last = run_on_terminal([sys.executable, "-c", TRAINING], columns)
    assert code == 0
    bars = [line for line in seen if "━" in line]
    assert all("/645 steps " in line and line.count(":") >= 2 for line in bars), bars
    assert any(" 0:00:0" in line for line in bars), "no time left was ever shown"
    assert [line for line in last if "━" not in line] == [
        "train: step 300 of 645: validation accuracy 0.9876 (62 errors in 5000)",
        "warning: a warning",
        "train: done",
    ]
    assert not [line for line in seen if "━" in line and ("validation" in line or "warning" in line)]


def test_the_bar_of_a_finished_task_is_full() -> None:
    _, _, last = run_on_terminal([sys.executable, "-c", TRAINING], 100)
    (bar,) = [line for line in last if "━" in line]
    assert "645/645 steps" in bar
    assert "╺" not in bar
    assert "╸" not in bar


def test_the_bar_of_a_task_that_ended_early_shows_how_far_it_went() -> None:
    _, _, last = run_on_terminal([sys.executable, "-c", STOPPED_EARLY], 100)
    (bar,) = [line for line in last if "━" in line]
    assert "430/430 steps" in bar


def test_the_bar_of_a_task_that_failed_stays_where_it_was() -> None:
    code, _, last = run_on_terminal([sys.executable, "-c", BROKEN], 100)
    assert code == 1
    assert "100/645 steps" in " ".join(last)


def test_a_log_gets_plain_lines() -> None:
    done = subprocess.run([sys.executable, "-c", TRAINING], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == [
        "train: step 300 of 645: validation accuracy 0.9876 (62 errors in 5000)",
        "warning: a warning",
        "train: done",
    ]
