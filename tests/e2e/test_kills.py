"""A run killed at random moments and gone on with ends with the very model of an undisturbed one."""

from pathlib import Path

import pytest

from tests.conftest import MakeArchives
from tests.e2e import kills


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_archives: MakeArchives) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_archives(folder, (12, 20), 3, train=600, test=100)
    return folder


def bit_equal_under_kills(work: Path, data: Path, steps: int, number: int, seed: int) -> None:
    kills.run_undisturbed(work, data, steps)
    done = kills.run_under_kills(work, data, steps, number, seed)
    print(kills.table(done))
    assert len(done) == number
    assert kills.weights(work, "killed") == kills.weights(work, "undisturbed")
    assert kills.model_weights(work, "killed") == kills.model_weights(work, "undisturbed")
    # Nothing of the dead processes is left beside what is whole.
    assert not list((work / "datasets").glob(".tmp-*"))
    assert not list((work / "runs/killed").rglob(".*tmp-*"))


def test_a_few_kills(tmp_path: Path, data: Path) -> None:
    bit_equal_under_kills(tmp_path / "work", data, steps=400, number=3, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_kills(tmp_path: Path, data: Path) -> None:
    bit_equal_under_kills(tmp_path / "work", data, steps=1200, number=20, seed=2)


def test_two_undisturbed_runs_are_bit_equal(tmp_path: Path, data: Path) -> None:
    for name in ("one", "two"):
        kills.run_undisturbed(tmp_path / name, data, steps=60)
    assert kills.model_weights(tmp_path / "one", "undisturbed") == kills.model_weights(tmp_path / "two", "undisturbed")
