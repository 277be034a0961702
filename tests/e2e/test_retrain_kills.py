"""A retraining that is struck keeps what it has trained, says so in one line, and is gone on with by one alone."""

from pathlib import Path

import pytest

from tests.conftest import MakeArchives
from tests.support import retrain_kills as kills
from tests.support.retrain_kills import Strike, Trial


def test_three_strikes(tmp_path: Path, make_archives: MakeArchives) -> None:
    make_archives(tmp_path / "data", (12, 20), 3, train=600, test=100)
    trial = Trial(tmp_path, 130, seed=1)
    done, last = trial.run([Strike("idxtrain", step=20), Strike("terminal", step=60), Strike("launcher", step=90)])
    assert kills.faults(done, trial.trainers) == []
    assert [struck.code for struck in done] == [-9, 75, 1]
    told = (tmp_path / "told.txt").read_text()
    assert " failed: train: was killed by SIGKILL; was there enough memory? " in told
    assert "ended with exit code" not in told
    assert last.startswith("promoted: data version 1; ")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_strikes(tmp_path: Path, make_archives: MakeArchives) -> None:
    make_archives(tmp_path / "data", (12, 20), 3, train=600, test=100)
    planned = kills.plan(600)
    assert len(planned) == 20
    assert {strike.how for strike in planned} == set(kills.WAYS)
    trial = Trial(tmp_path, 600, seed=2)
    done, last = trial.run(planned)
    assert kills.faults(done, trial.trainers) == []
    assert last.startswith("promoted: data version 1; ")
