"""Label suspects: the method on known probabilities, and the command on archives with planted mistakes."""

import csv
from pathlib import Path

import numpy as np
import pytest

from jobs.inspect.labels.confident import judge
from jobs.inspect.labels.folds import fold_of
from jobs.prepare import idx
from tests.conftest import Idxtrain, MakeArchives, put_archive


def test_confident_learning_estimates_the_joint_of_given_and_true_labels() -> None:
    """Of 1000 rows of each of three classes, 100 of class 0 were labelled 1."""
    random = np.random.default_rng(0)
    true = np.repeat([0, 1, 2], 1000)
    given = true.copy()
    planted = random.choice(1000, 100, replace=False)
    given[planted] = 1
    probabilities = np.full((3000, 3), 0.0625)  # exact in binary, and so are the thresholds
    probabilities[np.arange(3000), true] = 0.875
    verdict = judge(probabilities, given)
    assert verdict.joint.round().tolist() == [[900, 0, 0], [100, 1000, 0], [0, 0, 1000]]
    assert set(np.flatnonzero(verdict.suspect)) == set(planted)
    assert set(verdict.ranked()[:100]) == set(planted)
    assert (verdict.suggested[planted] == 0).all()


def test_predictions_that_agree_with_every_label_leave_no_suspect() -> None:
    given = np.arange(300) % 3
    verdict = judge(np.eye(3)[given] * 0.9 + 0.1 / 3, given)
    assert not verdict.suspect.any()
    assert (verdict.margin < 0).all()


def test_a_class_without_rows_and_one_of_two_classes_are_judged() -> None:
    probabilities = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.9, 0.1, 0.0]])
    assert not judge(probabilities, np.array([0, 1, 0])).suspect.any()


def test_folds_have_every_class_evenly() -> None:
    labels = np.random.default_rng(1).integers(0, 4, 1003)
    fold = fold_of(labels, 5, 0)
    counts = np.array([np.bincount(labels[fold == number], minlength=4) for number in range(5)])
    assert (np.ptp(counts, axis=0) <= 1).all()
    assert (fold == fold_of(labels, 5, 0)).all()
    assert (fold != fold_of(labels, 5, 1)).any()


@pytest.mark.long
def test_inspect_labels_finds_planted_mistakes_and_resumes(
    make_archives: MakeArchives, idxtrain: Idxtrain, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    archives = make_archives(data, train=1200)
    labels = idx.read(archives["train_labels"].path)
    planted = np.random.default_rng(3).choice(1200, 24, replace=False)
    labels[planted] = (labels[planted] + 1) % 3
    put_archive(data, "train_labels", labels, gz=True)
    options = ("inspect", "--labels", data, "--folds", 2, "--run-id", "r", "--set", "train.epochs=8")
    done = idxtrain(*options)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "work" / "runs" / "r" / "labels"
    assert Path(done.stdout.strip()) == folder / "labels.html"
    with (folder / "suspects.csv").open(newline="") as file:
        suspects = list(csv.DictReader(file))
    found = {int(line["row"]) for line in suspects if line["role"] == "train"}
    assert len(found & set(planted.tolist())) >= 0.9 * len(found)
    # Of so few mistakes the estimated number is low; the ranking has them all the same.
    assert len(found & set(planted.tolist())) >= 0.75 * 24
    with (folder / "ranking.csv").open(newline="") as file:
        ranked = [int(line["row"]) for line in csv.DictReader(file) if line["role"] == "train"]
    assert len(set(ranked[:24]) & set(planted.tolist())) >= 0.9 * 24
    assert (folder / "labels.html").stat().st_mode & 0o777 == 0o600
    first = {name: (folder / name).read_bytes() for name in ("suspects.csv", "ranking.csv", "labels.html")}
    (folder / "fold-1.npz").write_bytes(b"damaged")
    again = idxtrain("inspect", "--labels", "--folds", 2, "--run-id", "r")
    assert again.returncode == 0, again.stderr
    assert "fold 1 of 2" not in again.stderr
    assert "fold 2 of 2" in again.stderr
    assert (folder / "suspects.csv").read_bytes() == first["suspects.csv"]


def test_inspect_without_a_path_names_the_fix(idxtrain: Idxtrain) -> None:
    done = idxtrain("inspect")
    assert done.returncode == 2
    assert "FILE|DIR: missing" in done.stderr
