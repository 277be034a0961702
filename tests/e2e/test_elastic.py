"""The lecture's first 200 steps on the real MNIST, at 1 to 4 ranks: the same rows, and the same losses at first."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Idxtrain

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

STEPS = 200
ROUNDING_ONLY = 15  # steps


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


def train(idxtrain: Idxtrain, work: Path, data: Path, ranks: int, dropout: float) -> tuple[list[list[int]], np.ndarray]:
    """Return each step's global batch as archive rows, and each step's loss."""
    run_id = f"ranks-{ranks}-dropout-{dropout}"
    settings = {"train.dropout": dropout, "train.max_steps": STEPS, "train.log_every": 1, "train.audit": "true"}
    options = [f"--set={key}={value}" for key, value in settings.items()]
    done = idxtrain(
        "train", "--recipe", "lecture", "--data", data, "--work", work, "--run-id", run_id, "--np", ranks, *options
    )
    assert done.returncode == 0, done.stderr
    logs = work / f"runs/{run_id}/logs"
    audits = [
        [json.loads(line)["rows"] for line in (logs / f"rows.rank-{rank}.jsonl").read_text().splitlines()]
        for rank in range(ranks)
    ]
    batches = [[row for rows in step for row in rows] for step in zip(*audits, strict=True)]
    curve = [json.loads(line) for line in (logs / "train.jsonl").read_text().splitlines()]
    return batches, np.array([entry["loss"] for entry in curve if entry["kind"] == "train"])


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_same_training_at_any_world_size(idxtrain: Idxtrain, work: Path, mnist_dir: Path, dropout: float) -> None:
    batches, losses = train(idxtrain, work, mnist_dir, 1, dropout)
    assert len(batches) == len(losses) == STEPS
    assert all(len(set(batch)) == 50 for batch in batches)
    for ranks in (2, 3, 4):
        others, other_losses = train(idxtrain, work, mnist_dir, ranks, dropout)
        assert others == batches
        # With dropout on, equal losses also say that the masks are the same: one bit more or less changes a loss by far
        # more than this. Later, Adam makes of rounding what it likes: a gradient that is all rounding moves a weight as
        # far as any other.
        np.testing.assert_allclose(other_losses[:ROUNDING_ONLY], losses[:ROUNDING_ONLY], rtol=1e-4)
