"""A training that is slow but makes progress has not stalled."""

from pathlib import Path

import pytest

from tests.conftest import Idxtrain, MakeArchives

pytestmark = pytest.mark.long


@pytest.mark.slow
def test_a_validation_longer_than_stall_seconds_is_no_stall(
    idxtrain: Idxtrain, tmp_path: Path, make_archives: MakeArchives
) -> None:
    make_archives(tmp_path / "data", (8, 8), 4, train=60_000, test=100)
    settings = {
        "prepare.validation_rows": 59_500,
        "train.max_steps": 2,
        "train.batch_size": 100,
        "train.precision": "float32",
        "launch.stall_seconds": 5,
        "launch.max_restarts": 0,
    }
    options = ["--data", tmp_path / "data", "--recipe", "residual", "--run-id", "r"]
    done = idxtrain("train", *options, *(f"--set={key}={value}" for key, value in settings.items()))
    assert done.returncode == 0, done.stderr
    assert "made no progress" not in done.stderr
