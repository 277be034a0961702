"""The schedules of `idxtrain schedule`, run by a real cron daemon and a real Slurm."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from jobs.prepare import idx
from jobs.run_dir import RunDir, Work
from tests.conftest import Idxtrain, MakeArchives
from tests.support.slurm_cluster import SlurmCluster
from tests.support.webhook import Webhook, webhook

pytestmark = pytest.mark.long

EVERY_MINUTE = "* * * * *"
SETTINGS = ("--set=train.batch_size=32", "--set=train.epochs=2", "--set=train.learning_rate=0.003")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_archives: MakeArchives) -> Path:
    folder = tmp_path_factory.mktemp("scheduled")
    make_archives(folder / "data", (12, 20), 3, train=300, test=100)
    return folder


def wait_for(condition: Any, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def log_of(folder: Path) -> str:
    path = folder / "work/retrain/data/retrain.log"
    return path.read_text() if path.exists() else ""


def schedule(folder: Path, kind: str, *options: str) -> str:
    """Run `idxtrain schedule` in that folder; return its output."""
    command = ["schedule", "--cron", EVERY_MINUTE, "--as", kind, "--data", "data", *SETTINGS, *options]
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", *command],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- cron


@contextmanager
def cron_daemon() -> Iterator[None]:
    """Use the cron daemon that runs, or start one. Restore the user's crontab at the end."""
    program = shutil.which("cron", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    why = "needs root" if os.geteuid() else "" if program else "found no cron: apt-get install cron"
    if why and os.environ.get("CI") == "true":
        pytest.fail(why)
    if why or not program:
        pytest.skip(why)
    before = subprocess.run(["crontab", "-l"], capture_output=True, text=True, check=False)
    is_running = any(process.name() in ("cron", "crond") for process in psutil.process_iter())
    daemon = None if is_running else subprocess.Popen([program, "-f"])
    try:
        yield
    finally:
        if before.returncode:
            subprocess.run(["crontab", "-r"], capture_output=True, check=False)
        else:
            subprocess.run(["crontab", "-"], input=before.stdout, text=True, check=True)
        if daemon is not None:
            daemon.terminate()
            daemon.wait(10)


def test_debians_cron_runs_the_retraining(folder: Path) -> None:
    with cron_daemon():
        assert schedule(folder, "cron", "--install") == "crontab: installed idxtrain-retrain-data\n"
        assert schedule(folder, "cron", "--install").endswith("is already installed, unchanged\n")
        wait_for(lambda: " begins: retrain " in log_of(folder))
        subprocess.run(["crontab", "-r"], check=True)  # once is enough
        wait_for(lambda: log_of(folder).rstrip().endswith(" ends"))
    assert "\npromoted: data version 1; test accuracy " in log_of(folder)
    assert "Traceback" not in log_of(folder)


# --- Slurm


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with webhook() as made:
        yield made


def weights(path: Path) -> list[NDArray[Any]]:
    import keras

    return list(keras.models.load_model(path, compile=False).get_weights())


def test_a_slurm_job_retrains_and_submits_its_successor(
    slurm: SlurmCluster,
    folder: Path,
    idxtrain: Idxtrain,
    make_archives: MakeArchives,
    hook: Webhook,
) -> None:
    """A drifted pair is added. Training starts from the champion's weights, at a rate too low to change them."""
    work = Work(folder / "work")
    if not (work.retrains / "data/champion.json").exists():  # without cron
        assert idxtrain("retrain", "--data", folder / "data", "--work", work.path, *SETTINGS).returncode == 0
    champion = work.retrains / "data/models" / next((work.retrains / "data/models").glob("*.keras")).name
    before = weights(champion)
    archives = make_archives(folder / "made", (12, 20), 3, train=60, gz=False, seed=9)
    for kind, form in (("images", "idx3"), ("labels", "idx1")):
        array = idx.read(archives[f"train_{kind}"].path)
        idx.write(folder / f"data/train-{kind}-dark-{form}-ubyte", array // 4 if kind == "images" else array)
    secrets = folder / "secrets"
    secrets.touch(0o600)
    secrets.write_text(f"IDXTRAIN_WEBHOOK={hook.url}\n")
    script = folder / "retrain.sh"
    options = ("--warm-start", "--set=train.learning_rate=1e-12", "--set=gate.delta=0.1", "--keep", "3")
    script.write_text(schedule(folder, "slurm", "--env-file", str(secrets), "--sbatch=--ntasks=1", *options))
    assert "secret-path" not in script.read_text()

    first, second = (slurm.run("sbatch", "--parsable", script, check=True).stdout.strip() for _ in range(2))
    slurm.wait_for_end(first)
    assert slurm.state(first) == "COMPLETED", log_of(folder)
    log = log_of(folder).rpartition(" begins: ")[2]
    assert "prepare: pair dark: 60 rows decoded" in log
    assert "\npromoted: data version 2; test accuracy " in log
    assert "Traceback" not in log
    # The second submission joined the existing chain, and did not start another.
    slurm.wait_for_end(second)
    assert len(pending(slurm)) == 1
    (successor,) = pending(slurm)
    assert successor not in (first, second)
    slurm.wait_for_end(successor)
    assert slurm.state(successor) == "COMPLETED"
    assert log_of(folder).count("\nnothing new; last outcome: ") == 2
    assert len(pending(slurm)) == 1
    slurm.run("scancel", *pending(slurm), check=True)

    (notification,) = hook.received
    assert (notification["event"], notification["version"]) == ("promoted", 2)
    assert notification["id"] == f"{notification['run_id']}-promoted"
    drift = [check for check in notification["checks"] if check["name"] == "drift of pixel mean" and not check["holds"]]
    assert drift
    assert not drift[-1]["blocks"]
    assert "new pair dark" in drift[-1]["text"]
    assert re.search(r"moved by \d", drift[-1]["text"])
    run = RunDir(work.runs / notification["run_id"])
    assert run.read_config()["train"]["initial_model"] == str(champion)
    for old, new in zip(before, weights(run.model_file), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-5)


def pending(slurm: SlurmCluster) -> list[str]:
    queue = slurm.run("squeue", "--noheader", "--states=PENDING", "--name=idxtrain-retrain-data", "--format=%i").stdout
    return queue.split()
