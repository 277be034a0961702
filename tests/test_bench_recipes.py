"""The table of recipes: what one training costs and how accurate it is over seeds."""

import subprocess
import sys
from pathlib import Path

import keras
import pytest

from jobs.metrics import read_metrics
from jobs.run_dir import RunDir
from tests.benchmarks import recipes
from tests.conftest import MakeArchives

RECIPE = """
[about]
summary = "tiny"
source = "ours"
expected = "0.5"
images = 2
time = "1 s"
command = "idxtrain run --recipe tiny.toml"

[train]
model = "compact"
epochs = 1
batch_size = 32
"""


def test_operations_are_three_passes_of_products_and_sums_over_all_positions() -> None:
    images = keras.Input((9, 9, 2))
    x = keras.layers.Conv2D(5, 3, strides=2, name="conv")(images)  # 4 × 4 positions of 3 × 3 × 2 products × 5 filters
    x = keras.layers.BatchNormalization()(x)
    model = keras.Model(images, keras.layers.Dense(7)(keras.layers.Flatten()(x)))
    assert recipes.training_flops(model) == 6 * (16 * 9 * 2 * 5 + 80 * 7)


@pytest.mark.long
def test_a_recipe_runs_once_and_its_row_has_the_mean_over_seeds(
    tmp_path: Path, make_archives: MakeArchives, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_archives(tmp_path / "archives", shape=(12, 12), classes=4, train=300, test=80)
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(RECIPE)
    options = [str(recipe), "--data", str(tmp_path / "archives"), "--seeds", "3", "--work", str(tmp_path)]
    command = [sys.executable, "-m", "tests.benchmarks.recipes", *options]
    first = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    metrics = read_metrics(RunDir(tmp_path / "runs/tiny-3"))
    accuracy = f"{100 * metrics.test.accuracy:.2f}"
    cells = [cell.strip() for cell in first.splitlines()[-1].strip("|").split("|")]
    assert [*cells[:3], *cells[5:]] == ["`tiny`", "3", "275", accuracy, accuracy]

    monkeypatch.setattr(sys, "argv", ["recipes", *options])
    monkeypatch.setattr(subprocess, "run", None)  # the second time, nothing is left to run
    recipes.main()
    assert capsys.readouterr().out == first

    known = {"images": 3_000_000, "images_per_second": 500.0}
    results = [
        metrics.model_copy(
            update={
                "seed": seed,
                "train": metrics.train.model_copy(update=known),
                "test": metrics.test.model_copy(update={"accuracy": accuracy}),
            }
        )
        for seed, accuracy in ((0, 0.93), (1, 0.94), (2, 0.95))
    ]
    row = "| `cifar` | 0, 1, 2 | 3,000,000 | 1.500 | 100 | 93.00, 94.00, 95.00 | 94.00 ± 1.00 |"
    assert recipes.row("cifar", results, 500_000_000) == row
