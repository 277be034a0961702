"""Real data sets of full size through all stages: Fashion-MNIST, and MNIST's model on Kannada digits."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Idxtrain, idxtrain_in
from tests.support.real_data import fashion, real_data

pytestmark = pytest.mark.long

STEPS = ("--set", "train.max_steps=150")


def metrics_of(folder: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return metrics


@pytest.fixture(scope="module")
def mnist(tmp_path_factory: pytest.TempPathFactory, mnist_dir: Path) -> tuple[Idxtrain, Path]:
    """Return how to run `idxtrain`, and the folder of a run on all of MNIST."""
    folder = tmp_path_factory.mktemp("mnist-run")
    idxtrain = idxtrain_in(folder)
    done = idxtrain("run", "--data", mnist_dir, "--dataset", "mnist", "--run-id", "m", *STEPS)
    assert done.returncode == 0, done.stderr
    return idxtrain, folder / "work/runs/m"


def test_all_of_fashion_mnist_from_debians_package_trains_without_a_network(idxtrain: Idxtrain, tmp_path: Path) -> None:
    fashion()
    done = idxtrain("run", "--dataset", "fashion-mnist", "--set", "fetch.offline=true", "--run-id", "f", *STEPS)
    assert done.returncode == 0, done.stderr
    test = metrics_of(tmp_path / "work/runs/f")["test"]
    assert (test["count"], test["accuracy"] > 0.8) == (10_000, True)
    assert [each["name"] for each in test["classes"]][:2] == ["T-shirt/top", "Trouser"]


@pytest.mark.parametrize(
    ("name", "rows"), [("kannada_MNIST_test", 10_000), ("dig_MNIST", 10_240)], ids=["kannada", "dig"]
)
def test_test_archives_alone_are_evaluated_against_a_model_of_mnists_layout(
    mnist: tuple[Idxtrain, Path], name: str, rows: int
) -> None:
    idxtrain, run = mnist
    folder = real_data("kannada")
    archives = [f"--test-images={folder}/X_{name}-idx3-ubyte.gz", f"--test-labels={folder}/y_{name}-idx1-ubyte.gz"]
    done = idxtrain("evaluate", "--run-id", "m", *archives, "--dataset", name)
    assert done.returncode == 0, done.stderr
    metrics = metrics_of(run / "evaluations" / name)
    assert metrics["test"]["count"] == rows
    assert "below-validation" in [each["kind"] for each in metrics["caveats"]]


def test_test_archives_alone_are_refused_for_training(idxtrain: Idxtrain, tmp_path: Path) -> None:
    done = idxtrain("run", "--data", real_data("kannada"))
    assert done.returncode == 2
    assert "test archives alone" in done.stderr
    assert not (tmp_path / "work/runs").exists()


def test_qmnists_label_archives_train_with_mnists_images(idxtrain: Idxtrain, tmp_path: Path, mnist_dir: Path) -> None:
    (labels,) = real_data("qmnist").glob("*train*")
    images = mnist_dir / "train-images-idx3-ubyte.gz"
    own = [f"--train-images={images}", f"--train-labels={labels}", f"--data={mnist_dir}", "--dataset=qmnist-like"]
    done = idxtrain("run", *own, "--run-id", "q", "--set", "train.max_steps=60")
    assert done.returncode == 0, done.stderr
    metrics = metrics_of(tmp_path / "work/runs/q")
    assert [each["label"] for each in metrics["test"]["classes"]] == list(range(10))
    assert metrics["test"]["accuracy"] > 0.8
