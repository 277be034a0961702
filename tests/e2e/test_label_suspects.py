"""Label suspects at full size: planted mistakes in MNIST's training labels, and the images that people rejected."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from jobs.prepare import idx
from tests.conftest import Idxtrain
from tests.support.real_data import real_data

pytestmark = pytest.mark.slow

_PLANTED = 1200  # 2 % of 60,000


def check_labels(idxtrain: Idxtrain, data: Path, run_id: str) -> Path:
    done = idxtrain("inspect", "--labels", data, "--run-id", run_id, timeout=3600)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip()).parent


def read(path: Path, role: str) -> list[int]:
    """Return the rows of a role, in the file's order."""
    with path.open(newline="", encoding="utf-8") as file:
        return [int(line["row"]) for line in csv.DictReader(file) if line["role"] == role]


def test_planted_mistakes_are_found_with_a_precision_and_recall_of_at_least_90_percent(
    idxtrain: Idxtrain, mnist_dir: Path, tmp_path: Path
) -> None:
    data = tmp_path / "planted"
    data.mkdir()
    for path in mnist_dir.iterdir():
        if not path.name.startswith("train-labels"):
            (data / path.name).symlink_to(path)
    labels = idx.read(next(mnist_dir.glob("train-labels*")))
    random = np.random.default_rng(17)
    planted = random.choice(len(labels), _PLANTED, replace=False)
    labels[planted] = (labels[planted] + random.integers(1, 10, _PLANTED)) % 10
    idx.write(data / "train-labels-idx1-ubyte", labels)
    suspects = read(check_labels(idxtrain, data, "planted") / "suspects.csv", "train")
    hits = len(set(suspects) & set(planted.tolist()))
    assert hits >= 0.9 * len(suspects)
    assert hits >= 0.9 * _PLANTED


def test_images_that_people_rejected_are_among_the_100_strongest_doubts(idxtrain: Idxtrain, mnist_dir: Path) -> None:
    """13 of 15 are. Votes of five people: the given label, the guessed one, neither. Settings were not chosen by it."""
    votes = json.loads((real_data("label-errors") / "mnist_mturk.json").read_text())
    rejected = {
        each["id"]
        for each in votes
        if sum(each["mturk"].values()) == 5 and each["mturk"]["guessed"] + each["mturk"]["neither"] >= 3
    }
    assert len(rejected) == 15
    ranking = read(check_labels(idxtrain, mnist_dir, "mnist") / "ranking.csv", "test")
    assert len(rejected & set(ranking[:100])) >= 12
