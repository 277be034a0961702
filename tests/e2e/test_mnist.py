"""Full-length trainings on MNIST: each recipe reaches the accuracy that it states."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Idxtrain

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


def run(idxtrain: Idxtrain, work: Path, data: Path, run_id: str, *options: object, **more: Any) -> dict[str, Any]:
    done = idxtrain("run", "--data", data, "--work", work, "--run-id", run_id, *options, timeout=3600, **more)
    assert done.returncode == 0, done.stderr
    metrics: dict[str, Any] = json.loads((work / f"runs/{run_id}/metrics.json").read_text())
    assert metrics["test"]["count"] == 10_000
    return metrics


def test_softmax_reaches_its_stated_accuracy(idxtrain: Idxtrain, work: Path, mnist_dir: Path) -> None:
    assert 0.915 <= run(idxtrain, work, mnist_dir, "softmax", "--recipe", "softmax")["test"]["accuracy"] <= 0.925


@pytest.mark.parametrize("ranks", [1, 2])
def test_fast_reaches_its_stated_accuracy_on_one_and_two_ranks(
    idxtrain: Idxtrain, work: Path, mnist_dir: Path, ranks: int
) -> None:
    metrics = run(idxtrain, work, mnist_dir, f"fast-{ranks}", "--np", ranks)
    assert metrics["world_size"] == ranks
    assert metrics["test"]["accuracy"] >= 0.9915


def without_java(folder: Path) -> dict[str, str]:
    """Return an environment without Java: a PATH of links to every program except those named java."""
    folder.mkdir()
    for directory in os.environ["PATH"].split(os.pathsep):
        for program in Path(directory).glob("*") if directory else ():
            if not program.name.startswith("java") and not (folder / program.name).exists():
                (folder / program.name).symlink_to(program)
    environment = {key: value for key, value in os.environ.items() if key != "JAVA_HOME"}
    assert not shutil.which("java", path=str(folder))
    return environment | {"PATH": str(folder)}


def test_a_run_succeeds_without_java_on_the_machine(idxtrain: Idxtrain, mnist_dir: Path, tmp_path: Path) -> None:
    environment = without_java(tmp_path / "bin")
    metrics = run(idxtrain, tmp_path / "work", mnist_dir, "no-java", "--recipe", "softmax", env=environment)
    assert 0.915 <= metrics["test"]["accuracy"] <= 0.925


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("recipe", "least"), [("keras", 0.989), ("residual", 0.9935), ("best", 0.9965)])
def test_long_recipes_reach_their_stated_accuracy(
    idxtrain: Idxtrain, work: Path, mnist_dir: Path, recipe: str, least: float
) -> None:
    assert run(idxtrain, work, mnist_dir, recipe, "--recipe", recipe)["test"]["accuracy"] >= least


@pytest.mark.timeout(2400)
def test_lecture_reaches_its_stated_accuracy(idxtrain: Idxtrain, work: Path, mnist_dir: Path) -> None:
    metrics = run(idxtrain, work, mnist_dir, "lecture", "--recipe", "lecture")
    assert metrics["train"] == metrics["train"] | {"steps": 20_000, "images": 1_000_000}
    assert metrics["test"]["accuracy"] >= 0.9905
