"""A run that is killed at random moments and resumed ends with the model of an undisturbed run, bit by bit."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import MakeArchives
from tests.support import kills

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_archives: MakeArchives) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_archives(folder, (12, 20), 3, train=600, test=100)
    return folder


def check_bit_equal_under_kills(
    work: Path, data: Path, steps: int, planned: Sequence[kills.Planned]
) -> list[kills.Kill]:
    lengths = kills.run_undisturbed(work, data, steps)
    done = kills.run_under_kills(work, data, steps, planned, lengths)
    print(kills.table(done))
    assert [kill.planned for kill in done] == list(planned)
    # When the pipeline is killed, its ranks write a checkpoint of their current step. Ranks that were still starting
    # leave an older one: by the steps between two checkpoints, and between two measurements.
    assert all(kill.step - kill.saved <= 20 + 10 for kill in done if kill.saved is not None)
    assert kills.weights(work, "killed") == kills.weights(work, "undisturbed")
    assert kills.model_weights(work, "killed") == kills.model_weights(work, "undisturbed")
    # No unfinished file of a killed process is left.
    assert not list((work / "datasets").glob(".tmp-*"))
    assert not list((work / "runs/killed").rglob(".*tmp-*"))
    return done


def test_three_kills_leave_the_model_bit_equal(tmp_path: Path, data: Path) -> None:
    planned = [
        kills.Planned("Spark's Java", "prepare", 0.6),
        kills.Planned("rank", "train", 0.5),
        kills.Planned("pipeline", "train", 0.8),
    ]
    (*_, pipeline) = check_bit_equal_under_kills(tmp_path / "work", data, 120, planned)
    assert pipeline.saved is not None
    assert pipeline.saved >= pipeline.step


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_kills_leave_the_model_bit_equal(tmp_path: Path, data: Path) -> None:
    planned = kills.plan(20, seed=2)
    assert {kill.victim for kill in planned} == set(kills.VICTIMS)
    check_bit_equal_under_kills(tmp_path / "work", data, 1200, planned)
