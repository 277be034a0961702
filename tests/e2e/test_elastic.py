"""The first 200 steps of recipe lecture on real MNIST, on 1 to 4 ranks: same rows, losses and weights, bit for bit."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.conftest import Idxtrain

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

STEPS = 200
# Without train.deterministic, only rounding differs at first. Then Adam amplifies it: a gradient that is only rounding
# moves a weight as far as any other.
ROUNDING_ONLY = 15  # steps


@dataclass(frozen=True)
class Trained:
    """The record of a training. `batches`: each step's global batch as archive rows. `losses`: float64 [steps]."""

    batches: list[list[int]]
    losses: NDArray[Any]
    weights: str


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


def train(idxtrain: Idxtrain, work: Path, data: Path, ranks: int, dropout: float, exact: bool) -> Trained:
    run_id = f"ranks-{ranks}-dropout-{dropout}-exact-{exact}"
    settings = {"train.dropout": dropout, "train.max_steps": STEPS, "train.log_every": 1, "train.audit": "true"}
    options = [f"--set={key}={value}" for key, value in settings.items()]
    options += ["--set=train.deterministic=true"] if exact else []
    done = idxtrain(
        "train", "--recipe", "lecture", "--data", data, "--work", work, "--run-id", run_id, "--np", ranks, *options
    )
    assert done.returncode == 0, done.stderr
    run = work / f"runs/{run_id}"
    audits = [
        [json.loads(line)["rows"] for line in (run / f"logs/rows.rank-{rank}.jsonl").read_text().splitlines()]
        for rank in range(ranks)
    ]
    batches = [[row for rows in step for row in rows] for step in zip(*audits, strict=True)]
    curve = [json.loads(line) for line in (run / "logs/train.jsonl").read_text().splitlines()]
    losses = np.array([entry["loss"] for entry in curve if entry["kind"] == "train"])
    (weights,) = set(json.loads((run / "stages/train.json").read_text())["outputs"]["weights_sha256"])
    return Trained(batches, losses, weights)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_deterministic_training_has_the_same_rows_losses_and_weights_at_any_world_size(
    idxtrain: Idxtrain, work: Path, mnist_dir: Path, dropout: float
) -> None:
    alone = train(idxtrain, work, mnist_dir, 1, dropout, exact=True)
    assert len(alone.batches) == len(alone.losses) == STEPS
    assert all(len(set(batch)) == 50 for batch in alone.batches)
    for ranks in (2, 3, 4):
        together = train(idxtrain, work, mnist_dir, ranks, dropout, exact=True)
        assert together.batches == alone.batches
        # With dropout, equal losses also show that the masks are the same.
        np.testing.assert_array_equal(together.losses, alone.losses)
        assert together.weights == alone.weights


def test_other_training_has_the_same_rows_and_losses_up_to_rounding_at_any_world_size(
    idxtrain: Idxtrain, work: Path, mnist_dir: Path
) -> None:
    alone = train(idxtrain, work, mnist_dir, 1, 0.5, exact=False)
    for ranks in (2, 3):
        together = train(idxtrain, work, mnist_dir, ranks, 0.5, exact=False)
        assert together.batches == alone.batches
        np.testing.assert_allclose(together.losses[:ROUNDING_ONLY], alone.losses[:ROUNDING_ONLY], rtol=1e-4)
