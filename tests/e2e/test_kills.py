"""A run killed at random moments and gone on with ends with the very model of an undisturbed one."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import MakeArchives
from tests.support import kills


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_archives: MakeArchives) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_archives(folder, (12, 20), 3, train=600, test=100)
    return folder


def bit_equal_under_kills(work: Path, data: Path, steps: int, planned: Sequence[kills.Planned]) -> list[kills.Kill]:
    lengths = kills.run_undisturbed(work, data, steps)
    done = kills.run_under_kills(work, data, steps, planned, lengths)
    print(kills.table(done))
    assert [kill.planned for kill in done] == list(planned)
    # Where the pipeline was killed, its ranks wrote a checkpoint of the step at which they were; of one that was still
    # starting, the last is older by what is between two, and the measurement before it.
    assert all(kill.step - kill.saved <= 20 + 10 for kill in done if kill.saved is not None)
    assert kills.weights(work, "killed") == kills.weights(work, "undisturbed")
    assert kills.model_weights(work, "killed") == kills.model_weights(work, "undisturbed")
    # Nothing of the dead processes is left beside what is whole.
    assert not list((work / "datasets").glob(".tmp-*"))
    assert not list((work / "runs/killed").rglob(".*tmp-*"))
    return done


def test_a_few_kills(tmp_path: Path, data: Path) -> None:
    planned = [
        kills.Planned("Spark's Java", "prepare", 0.6),
        kills.Planned("rank", "train", 0.5),
        kills.Planned("pipeline", "train", 0.8),
    ]
    (*_, pipeline) = bit_equal_under_kills(tmp_path / "work", data, 120, planned)
    assert pipeline.saved is not None
    assert pipeline.saved >= pipeline.step


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_kills(tmp_path: Path, data: Path) -> None:
    planned = kills.plan(20, seed=2)
    assert {kill.victim for kill in planned} == set(kills.VICTIMS)
    bit_equal_under_kills(tmp_path / "work", data, 1200, planned)
