"""A real `mlflow server` that is killed while a retraining runs, and what its page then shows in a real browser."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.registry.registry import Registry
from jobs.run_dir import Work
from tests.conftest import Idxtrain, MakeArchives
from tests.test_registry import Server, free_port

SETTINGS = ("--set=train.batch_size=32", "--set=train.epochs=2", "--set=train.learning_rate=0.003")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("server"), free_port())
    yield made.start()
    made.kill()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, make_archives: MakeArchives) -> Path:
    folder = tmp_path_factory.mktemp("retrain")
    make_archives(folder / "data", (12, 20), 3, train=300, test=100)
    return folder


def test_a_server_killed_amid_a_run_costs_nothing(server: Server, place: Path) -> None:
    work = Work(place / "work")
    command = [sys.executable, "-m", "pipelines.cli", "retrain", "--data", str(place / "data"), *SETTINGS]
    environment = {**os.environ, **server.environment}
    process = subprocess.Popen(
        [*command, "--work", str(work.path)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not list(work.runs.glob("*/stages/prepare.json")):
        time.sleep(0.05)
    assert process.poll() is None
    server.kill()
    line, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert line.startswith("not registered yet: data: the registry is unreachable")
    assert f"the model registry at {server.uri}: " in said
    (run,) = work.runs.iterdir()
    assert (run / "decision.json").exists()


def test_sync_registers_and_promotes_it(server: Server, place: Path, idxtrain: Idxtrain) -> None:
    environment = {**os.environ, **server.environment}
    options = ("--name", "data", "--work", place / "work")
    away = idxtrain("models", "sync", *options, env=environment)
    assert away.returncode == 1
    assert away.stderr.startswith(f"idxtrain: the model registry at {server.uri}: ")
    server.start()
    done = idxtrain("models", "sync", *options, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("promoted\ndata: 1 registered, 0 waiting\n")
    champion = Registry(Work(place / "work"), "data", server.environment).by_alias("champion")
    assert champion is not None
    assert champion.number == 1
    assert not (place / "work/mlflow").exists()


def chromium() -> str:
    found = shutil.which("chromium")
    why = "" if found else "found no chromium: apt-get install chromium"
    if why and os.environ.get("CI") == "true":
        pytest.fail(why)
    if not found:
        pytest.skip(why)
    return found


def test_its_page_shows_the_run(server: Server, place: Path, tmp_path: Path) -> None:
    """The page that people see: the run by our name for it, its figures, and a picture of it all."""
    work = Work(place / "work")
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


def browse(page: str, folder: Path, *what: str) -> str:
    """Open a page as a browser without a screen does, and wait until its scripts have nothing left to do."""
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [chromium(), *options, profile, "--virtual-time-budget=20000", *what, page]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=180).stdout
