"""A reader of the champion always gets one, whatever is killed when. The next prune removes what kills leave."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.registry.registry import Registry
from jobs.prepare import idx
from jobs.run_dir import Work
from pipelines.retraining.promotion import promote, rollback
from pipelines.retraining.records import Promotion
from pipelines.retraining.retrain_dir import RetrainDir
from tests.conftest import MakeArchives
from tests.support import promotion_kills
from tests.support.champions import champion_entry
from tests.test_registry import SHAPE, model

pytestmark = pytest.mark.long

__all__ = ["model"]  # a fixture

SEED = 7


def test_a_reader_always_finds_a_champion_while_rollbacks_are_killed(model: Path, tmp_path: Path) -> None:
    work = Work(tmp_path / "work")
    registry, retrain_dir = Registry(work, "digits", {}), RetrainDir(work, "digits")
    with retrain_dir.lock():
        for run_id in ("r1", "r2"):
            promote(retrain_dir, registry, registry.register(replace(champion_entry(model), run_id=run_id)))
    command = promotion_kills.idxtrain("models", "rollback", "--name", "digits", "--work", work.path)
    log = tmp_path / "reader.log"
    with promotion_kills.reader(work, "digits", SHAPE, log):
        # Most of its time is start-up, so the moments count from the journal, which it writes before the aliases move.
        journal = retrain_dir.path / "promotion.json"
        ends = [promotion_kills.kill_at(command, moment, journal) for moment in promotion_kills.moments(3, 0.15, SEED)]
        promotion_kills.run("models", "rollback", "--name", "digits", "--work", work.path)
    assert "killed" in ends
    lines = log.read_text().splitlines()
    assert [line for line in lines if not line.startswith("read")] == []
    assert {number for line in lines for number in line.split()[1:]} == {"1", "2"}
    with retrain_dir.lock():
        promotion_kills.age(work)
    promotion_kills.run("prune", "--work", work.path)
    promotion_kills.assert_settled(work, "digits")
    assert promotion_kills.orphans(work, "digits") == []


def test_a_killed_rollback_is_finished_and_not_undone(model: Path, tmp_path: Path) -> None:
    work = Work(tmp_path / "work")
    registry, retrain_dir = Registry(work, "digits", {}), RetrainDir(work, "digits")
    with retrain_dir.lock():
        versions = [registry.register(replace(champion_entry(model), run_id=run_id)) for run_id in ("r1", "r2")]
        for version in versions:
            promote(retrain_dir, registry, version)
        retrain_dir.write(Promotion(champion=1, previous=2, is_rollback=True))
        assert rollback(retrain_dir, registry).number == 1
        assert promotion_kills.aliases(retrain_dir.work, "digits") == {"champion": 1, "previous": 2}
        assert rollback(retrain_dir, registry).number == 2
        retrain_dir.write(Promotion(champion=1, previous=2, is_rollback=False))
        assert rollback(retrain_dir, registry).number == 2
        assert promotion_kills.aliases(retrain_dir.work, "digits") == {"champion": 2, "previous": 1}


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_reader_always_finds_a_champion_while_retrainings_are_killed(
    tmp_path: Path, make_archives: MakeArchives
) -> None:
    work, data, log = Work(tmp_path / "work"), tmp_path / "data", tmp_path / "reader.log"
    make_archives(data, (12, 20), 3, train=400, test=200)
    settings = {"train.batch_size": 32, "train.epochs": 2, "train.learning_rate": 0.003, "gate.delta": 0.1}
    options = ["--data", data, "--work", work.path, "--keep", 2, *(f"--set={k}={v}" for k, v in settings.items())]
    promotion_kills.run("retrain", *options)
    begin = time.monotonic()
    promotion_kills.run("retrain", *options, "--force")
    retraining = time.monotonic() - begin
    begin = time.monotonic()
    promotion_kills.run("models", "rollback", "--name", "data", "--work", work.path)
    promotion = time.monotonic() - begin
    ends = []
    with promotion_kills.reader(work, "data", (12, 20, 1), log):
        for number, moment in enumerate(promotion_kills.moments(20, 1.0, SEED)):
            if number % 3 == 2:
                which = promotion_kills.idxtrain("models", "rollback", "--name", "data", "--work", work.path)
                ends.append(("rollback", moment * promotion, promotion_kills.kill_at(which, moment * promotion)))
                continue
            if number % 3 == 0:
                pair = make_archives(tmp_path / f"made{number}", (12, 20), 3, train=60, gz=False, seed=100 + number)
                for kind in ("images", "labels"):
                    idx_form = "idx3" if kind == "images" else "idx1"
                    path = data / f"train-{kind}-day{number}-{idx_form}-ubyte"
                    idx.write(path, idx.read(pair[f"train_{kind}"].path))
            which = promotion_kills.idxtrain("retrain", *options, "--force")
            ends.append(("retrain", moment * retraining, promotion_kills.kill_at(which, moment * retraining)))
        promotion_kills.run("retrain", *options)
    print(*ends, sep="\n")
    assert len([how for *_, how in ends if how == "killed"]) >= 15
    lines = log.read_text().splitlines()
    print(
        f"{len(lines)} reads, of versions {sorted({int(n) for line in lines for n in line.split()[1:] if n.isdigit()})}"
    )
    assert [line for line in lines if not line.startswith("read")] == []
    promotion_kills.age(work)
    print(promotion_kills.run("prune", "--keep", 2, "--work", work.path))
    promotion_kills.assert_settled(work, "data")
    assert promotion_kills.orphans(work, "data") == []
    assert promotion_kills.run("retrain", *options).startswith("nothing new; last outcome: ")
