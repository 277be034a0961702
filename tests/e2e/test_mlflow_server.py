"""A real `mlflow server`: killed during a retraining, restarted, and its page opened in a real browser."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.registry.registry import Registry
from jobs.run_dir import Work
from tests.conftest import Idxtrain, MakeArchives
from tests.support.mlflow_server import MlflowServer, free_port
from tests.support.report_picture import require_chromium

pytestmark = pytest.mark.long

SETTINGS = ("--set=train.batch_size=32", "--set=train.epochs=2", "--set=train.learning_rate=0.003")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path_factory.mktemp("server"), free_port())
    yield server.start()
    server.kill()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_archives: MakeArchives) -> Path:
    folder = tmp_path_factory.mktemp("retrain")
    make_archives(folder / "data", (12, 20), 3, train=300, test=100)
    return folder


def test_a_retraining_succeeds_while_the_server_is_down(server: MlflowServer, folder: Path) -> None:
    work = Work(folder / "work")
    command = [sys.executable, "-m", "pipelines.cli", "retrain", "--data", str(folder / "data"), *SETTINGS]
    environment = {**os.environ, **server.environment}
    process = subprocess.Popen(
        [*command, "--work", str(work.path)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not list(work.runs.glob("*/stages/prepare.json")):
        time.sleep(0.05)
    assert process.poll() is None
    server.kill()
    line, log = process.communicate(timeout=300)
    assert process.returncode == 0, log
    assert line.startswith("not registered yet: data: the registry is unreachable")
    assert f"the model registry at {server.uri}: " in log
    (run,) = work.runs.iterdir()
    assert (run / "decision.json").exists()


def test_models_sync_registers_and_promotes_the_waiting_run(
    server: MlflowServer, folder: Path, idxtrain: Idxtrain
) -> None:
    environment = {**os.environ, **server.environment}
    options = ("--name", "data", "--work", folder / "work")
    away = idxtrain("models", "sync", *options, env=environment)
    assert away.returncode == 1
    assert away.stderr.startswith(f"idxtrain: the model registry at {server.uri}: ")
    server.start()
    done = idxtrain("models", "sync", *options, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("promoted\ndata: 1 registered, 0 waiting\n")
    champion = Registry(Work(folder / "work"), "data", server.environment).by_alias("champion")
    assert champion is not None
    assert champion.number == 1
    assert not (folder / "work/mlflow").exists()


def test_mlflows_page_shows_the_run(server: MlflowServer, folder: Path, tmp_path: Path) -> None:
    """The page shows the run's ID and its figures, and is not empty."""
    work = Work(folder / "work")
    (run,) = work.runs.iterdir()
    registry = Registry(work, "data", server.environment)
    version = registry.find("champion")
    page = f"{server.uri}/#/experiments/{registry._experiment()}/runs/{registry._run_of(version)}"
    picture = tmp_path / "page.png"
    text = browse(page, tmp_path, "--dump-dom")
    assert run.name in text
    for metric in ("test_accuracy", "validation_accuracy", "train/loss"):
        assert metric in text
    assert re.search(rf"\b{re.escape(str(version.accuracy))[:6]}", text)
    browse(page, tmp_path, f"--screenshot={picture}", "--window-size=1280,1600")
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert picture.stat().st_size > 20_000  # an empty page has a tenth of it


def browse(page: str, folder: Path, *options: str) -> str:
    """Open a page in a headless browser, wait until its scripts have finished, and return what the browser prints."""
    headless = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [require_chromium(), *headless, profile, "--virtual-time-budget=20000", *options, page]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=180).stdout
