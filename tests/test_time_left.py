"""How far a training is and how long it still takes: the estimate, and what `idxtrain status` shows of it."""

import json
import time
from pathlib import Path

import pytest

from jobs.run_dir import Work
from jobs.stage import STAGES
from jobs.train.telemetry.time_left import TimeLeft
from jobs.words import duration
from pipelines.history import status
from pipelines.history.progress import training_progress
from pipelines.lock import RunLock
from tests.conftest import Idxtrain
from tests.test_history import make_run


class Clock:
    """A clock that tests set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_estimate_counts_steps_and_validations_and_not_the_first_call() -> None:
    """Each step takes 2 s, a validation of 30 steps' rows 7 s, and building the graph a minute."""
    clock = Clock()
    left = TimeLeft(300, 100, 30, clock)
    clock.now = 60.0
    left.trained(10)
    assert left.seconds(10) is None
    clock.now += 40
    left.trained(30)
    assert left.seconds(30) == pytest.approx(270 * 2 + 3 * 30 / 3 * 2)
    clock.now += 140
    left.trained(100)
    clock.now += 7
    left.validated(100)
    clock.now += 100
    left.trained(150)
    assert left.seconds(150) == pytest.approx(150 * 2 + 2 * 7)


def test_a_training_that_ends_between_two_epochs_has_a_last_validation() -> None:
    clock = Clock()
    left = TimeLeft(250, 100, 0, clock)
    left.trained(10)
    clock.now = 10.0
    left.trained(20)
    clock.now = 20.0
    left.validated(20)
    assert left.seconds(20) == pytest.approx(230 + 3 * 10)


def test_time_spans_are_readable() -> None:
    spans = (0.4, 99.4, 100, 5999, 7500)
    assert [duration(seconds) for seconds in spans] == ["0 s", "99 s", "2 min", "1 h 40 min", "2 h 5 min"]


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path / "work")


def measure(work: Work, **values: object) -> None:
    entries = [
        {"kind": "validation", "step": 215, "accuracy": 0.9876, "time": 1.0},
        {"kind": "train", "step": 300, "images_per_second": 7142.4, "steps": 645, "time": time.time() - 10, **values},
    ]
    curve = work.runs / "r" / "logs" / "train.jsonl"
    curve.write_text("".join(json.dumps(each) + "\n" for each in entries))


def test_the_status_of_a_run_here_shows_how_far_its_training_is(work: Work, idxtrain: Idxtrain) -> None:
    run = make_run(work, "r", STAGES[:2])
    measure(work, seconds_left=40.2)
    run.heartbeats.mkdir()
    (run.heartbeats / "rank-0.json").write_text(json.dumps({"time": time.time(), "step": 320}))
    with RunLock(run):
        shown = idxtrain("status", "--work", work.path).stdout.splitlines()
    assert shown[:3] == [
        "run r",
        "stage     state    seconds",
        "fetch     done         2.5",
    ]
    assert shown[4].startswith("train     running           step 320 of 645, 7,142 images/s, validation 0.9876, ")
    assert 25 <= int(shown[4].split()[-3]) <= 30  # 40.2 less the age of the measurement
    assert shown[5] == "evaluate  waits"
    stopped = status.lines(run)
    assert stopped[3].split(maxsplit=2)[1:] == ["stopped", "step 300 of 645, 7,142 images/s, validation 0.9876"]


def test_a_log_of_an_older_version_and_an_old_heartbeat_give_the_step_alone(work: Work) -> None:
    run = make_run(work, "r", STAGES[:2])
    assert training_progress(run, is_running=True) is None
    measure(work)
    run.heartbeats.mkdir()
    (run.heartbeats / "rank-0.json").write_text(json.dumps({"time": time.time() - 100, "step": 640}))
    assert str(training_progress(run, is_running=True)) == "step 300 of 645, 7,142 images/s, validation 0.9876"
    run.curve_file.write_text('{"kind": "train", "step": 50, "loss": 1}\n')
    assert str(training_progress(run, is_running=True)) == "step 50"


def test_a_run_that_has_not_begun_to_train_waits_or_has_not_started(work: Work) -> None:
    run = make_run(work, "r", STAGES[:1])
    assert [line.split()[1:] for line in status.lines(run)[1:]] == [["done", "2.5"], *3 * [["not", "started"]]]
    with RunLock(run):
        assert [line.split()[1] for line in status.lines(run)[1:]] == ["done", "running", "waits", "waits"]
