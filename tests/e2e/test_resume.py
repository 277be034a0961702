"""A training that stops on request in the middle of an epoch and resumes at the same or another world size."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from jobs import training_log
from tests.conftest import Idxtrain, MakeArchives

pytestmark = pytest.mark.long

ROWS = 551  # of training: a prime number, so that the last batch is smaller
STEPS = 210  # six epochs
SETTINGS = {
    "train.batch_size": 16,
    "train.max_steps": STEPS,
    "train.log_every": 5,
    "train.audit": "true",
    "prepare.validation_rows": 50,
    "prepare.rows_per_shard": 40,
}
OPTIONS = ("--recipe", "lecture", *(f"--set={key}={value}" for key, value in SETTINGS.items()))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, make_archives: MakeArchives) -> Path:
    """Return a work folder with a run at 2 ranks that was stopped in the middle of an epoch."""
    folder = tmp_path_factory.mktemp("stopped")
    make_archives(folder / "data", (12, 20), 3, train=ROWS + 50, test=50)
    work = folder / "work"
    command = [sys.executable, "-m", "pipelines.cli", "run", "--data", str(folder / "data"), "--work", str(work)]
    process = subprocess.Popen([*command, "--run-id", "r", "--np", "2", *OPTIONS], stderr=subprocess.PIPE, text=True)
    log = work / "runs/r/logs/train.jsonl"
    deadline = time.monotonic() + 120
    while len(list(training_log.read(log))) <= 4:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 75, stderr
    resumes = rf"; `idxtrain run --run-id r --work {work}` resumes it"
    assert re.search(rf"train: stopped on request at step \d+ of {STEPS}{resumes}", stderr)
    assert "Traceback" not in stderr
    return work


def entries(work: Path) -> dict[int, list[int]]:
    """Return the archive rows of each step, over all ranks, in rank order."""
    steps: dict[int, list[int]] = {}
    for path in sorted((work / "runs/r/logs").glob("rows.rank-*.jsonl")):
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            steps.setdefault(entry["step"], []).extend(entry["rows"])
    return steps


def losses(work: Path, run_id: str = "r") -> dict[int, float]:
    entries = training_log.read(work / f"runs/{run_id}/logs/train.jsonl")
    return {entry["step"]: entry["loss"] for entry in entries if entry["kind"] == "train"}


def record(work: Path, run_id: str = "r") -> dict[str, Any]:
    outputs: dict[str, Any] = json.loads((work / f"runs/{run_id}/stages/train.json").read_text())["outputs"]
    return outputs


@pytest.mark.parametrize("ranks", [2, 1, 3])
def test_resume_at_another_world_size_trains_every_row_once(
    idxtrain: Idxtrain, stopped: Path, tmp_path: Path, ranks: int
) -> None:
    work = tmp_path / "work"
    shutil.copytree(stopped, work, symlinks=True)
    # The records of the copy still name the original's dataset, which is the same.
    done = idxtrain("train", "--work", work, "--run-id", "r", "--np", ranks)
    assert done.returncode == 0, done.stderr
    assert "train: resuming from step" in done.stderr
    steps = entries(work)
    per_epoch = -(-ROWS // 16)
    assert sorted(steps) == list(range(STEPS))
    for epoch in range(STEPS // per_epoch):
        rows = [row for step in range(epoch * per_epoch, (epoch + 1) * per_epoch) for row in steps[step]]
        assert Counter(rows) == Counter(range(50, 50 + ROWS))
    assert record(work)["world_size"] == ranks
    assert record(work)["steps"] == STEPS


def test_a_resumed_run_has_the_losses_of_an_uninterrupted_one(
    idxtrain: Idxtrain, stopped: Path, tmp_path: Path
) -> None:
    data = stopped.parent / "data"
    options = ("--data", data, "--work", stopped, "--run-id", "whole", "--np", 1, *OPTIONS)
    assert idxtrain("train", *options).returncode == 0
    work = tmp_path / "work"
    shutil.copytree(stopped, work)
    assert idxtrain("train", "--work", work, "--run-id", "r", "--np", 3).returncode == 0
    whole, resumed = losses(stopped, "whole"), losses(work)
    # Small losses differ by rounding, so the bound is absolute below 1.
    np.testing.assert_allclose(
        [resumed[s] for s in sorted(whole)], [whole[s] for s in sorted(whole)], rtol=1e-4, atol=1e-4
    )


def test_a_suspended_rank_is_named_and_the_training_completes(make_archives: MakeArchives, tmp_path: Path) -> None:
    make_archives(tmp_path / "data", (12, 20), 3, train=600, test=50)
    command = [sys.executable, "-m", "pipelines.cli", "train", "--data", str(tmp_path / "data"), "--run-id", "r"]
    options = ["--work", str(tmp_path / "work"), "--np", "2", "--set", "launch.stall_seconds=6", *OPTIONS]
    options += ["--set=train.max_steps=600", "--set=train.checkpoint_every_steps=5"]
    process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)
    log = tmp_path / "work/runs/r/logs/train.jsonl"
    deadline = time.monotonic() + 120
    while len(list(training_log.read(log))) <= 4:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    family = psutil.Process(process.pid).children(recursive=True)
    ranks = sorted(p.pid for p in family if "jobs.train" in p.cmdline() and "deploy.launcher" not in p.cmdline())
    os.kill(ranks[1], signal.SIGSTOP)
    _, stderr = process.communicate(timeout=180)
    assert process.returncode == 0, stderr
    errors = [line for line in stderr.splitlines() if line.startswith("idxtrain: ")]
    assert len(errors) == 1
    assert "idxtrain: train: rank 1 on " in errors[0]
    assert "restart 1 of 3" in stderr
    assert record(tmp_path / "work")["steps"] == 600
    rows = (tmp_path / "work/runs/r/logs/rows.rank-0.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in rows]
    assert set(steps) == set(range(600))
    assert steps.count(0) == 1, "trained again from the beginning"
