"""A retraining that is killed keeps what it has trained, prints one line, and is resumed by one process."""

from pathlib import Path

import pytest

from tests.conftest import MakeArchives
from tests.support.retrain_kills import WAYS, Strike, Trial, broken_promises, plan

pytestmark = pytest.mark.long


def test_a_retraining_survives_three_strikes(tmp_path: Path, make_archives: MakeArchives) -> None:
    make_archives(tmp_path / "data", (12, 20), 3, train=600, test=100)
    trial = Trial(tmp_path, 130, seed=1)
    done, last = trial.run([Strike("idxtrain", step=20), Strike("terminal", step=60), Strike("launcher", step=90)])
    assert broken_promises(done, trial.trainers) == []
    assert [struck.code for struck in done] == [-9, 75, 1]
    notified = (tmp_path / "notified.txt").read_text()
    assert " failed: train: was killed by SIGKILL; was there enough memory? " in notified
    assert "ended with exit code" not in notified
    assert last.startswith("promoted: data version 1; ")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_retraining_survives_twenty_strikes_at_every_stage(tmp_path: Path, make_archives: MakeArchives) -> None:
    make_archives(tmp_path / "data", (12, 20), 3, train=600, test=100)
    planned = plan(600)
    assert len(planned) == 20
    assert {strike.how for strike in planned} == set(WAYS)
    trial = Trial(tmp_path, 600, seed=2)
    done, last = trial.run(planned)
    assert broken_promises(done, trial.trainers) == []
    assert last.startswith("promoted: data version 1; ")
