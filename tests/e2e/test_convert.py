"""From other formats to a tested model: `idxtrain convert`, then `idxtrain run --data`."""

import json
from importlib.resources import files
from pathlib import Path

import pytest

from tests.conftest import Idxtrain

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@pytest.mark.long
def test_sklearns_digits_train_to_97_percent_also_by_way_of_pictures_in_named_folders(
    idxtrain: Idxtrain, tmp_path: Path
) -> None:
    digits = Path(str(files("sklearn.datasets.data"))) / "digits.csv.gz"
    for command in ([digits, "digits", "--label", "-1"], ["digits", "pictures"]):
        assert idxtrain("convert", *command).returncode == 0
    for label, name in enumerate(NAMES):
        (tmp_path / "pictures" / "train" / str(label)).rename(tmp_path / "pictures" / "train" / name)
    assert idxtrain("convert", "pictures", "named").returncode == 0
    done = idxtrain("run", "--data", "named")
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("work/runs/*/metrics.json")
    metrics = json.loads(path.read_text())
    assert metrics["test"]["accuracy"] >= 0.97
    assert [entry["name"] for entry in metrics["test"]["classes"]] == sorted(NAMES)
