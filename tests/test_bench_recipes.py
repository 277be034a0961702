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
def test_each_seed_runs_once_and_has_its_place_in_the_row(
    tmp_path: Path, make_archives: MakeArchives, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_archives(tmp_path / "archives", shape=(12, 12), classes=4, train=300, test=80)
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(RECIPE)
    options = [str(recipe), "--data", str(tmp_path / "archives"), "--seeds", "3,5", "--work", str(tmp_path)]
    command = [sys.executable, "-m", "tests.benchmarks.recipes", *options]
    first = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    results = [read_metrics(RunDir(tmp_path / f"runs/tiny-{seed}")) for seed in (3, 5)]
    cells = [cell.strip() for cell in first.splitlines()[-1].strip("|").split("|")]
    assert cells[:3] == ["`tiny`", "3, 5", "275"]
    assert cells[5] == ", ".join(f"{100 * metrics.test.accuracy:.2f}" for metrics in results)
    monkeypatch.setattr(sys, "argv", ["recipes", *options])
    monkeypatch.setattr(subprocess, "run", None)  # the second time, nothing is left to run
    recipes.main()
    assert capsys.readouterr().out == first
