"""Whoever reads the champion always gets one, whatever is killed when; what is left, the next prune removes."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.registry.registry import Registry
from jobs.prepare import idx
from jobs.run_dir import Work
from pipelines.retraining.promotion import promote, rollback
from pipelines.retraining.retrain_dir import RetrainDir
from tests.conftest import MakeArchives
from tests.support import promotion_kills as kills
from tests.test_registry import SHAPE, entry_of, model

__all__ = ["model"]  # a fixture

SEED = 7


def test_promotions_are_killed_and_the_champion_is_always_there(model: Path, tmp_path: Path) -> None:
    work = Work(tmp_path / "work")
    registry, place = Registry(work, "digits", {}), RetrainDir(work, "digits")
    with place.lock():
        for run_id in ("r1", "r2"):
            promote(place, registry, registry.register(replace(entry_of(model), run_id=run_id)))
    command = kills.idxtrain("models", "rollback", "--name", "digits", "--work", work.path)
    log = tmp_path / "reader.log"
    with kills.reader(work, "digits", SHAPE, log):
        # Its start-up is most of it, so the moments are counted from when it has begun to move the aliases.
        journal = place.path / "promotion.json"
        came = [kills.kill_at(command, moment, journal) for moment in kills.moments(3, 0.15, SEED)]
        kills.run("models", "rollback", "--name", "digits", "--work", work.path)
    assert "killed" in came
    lines = log.read_text().splitlines()
    assert [line for line in lines if not line.startswith("read")] == []
    assert {number for line in lines for number in line.split()[1:]} == {"1", "2"}
    with place.lock():
        kills.age(work)
    kills.run("prune", "--work", work.path)
    kills.assert_settled(work, "digits")
    assert kills.orphans(work, "digits") == []


def test_a_killed_rollback_is_finished_and_not_undone(model: Path, tmp_path: Path) -> None:
    registry, place = Registry(Work(tmp_path / "work"), "digits", {}), RetrainDir(Work(tmp_path / "work"), "digits")
    with place.lock():
        versions = [registry.register(replace(entry_of(model), run_id=run_id)) for run_id in ("r1", "r2")]
        for version in versions:
            promote(place, registry, version)
        place.write("promotion", {"champion": 1, "previous": 2, "is_rollback": True})
        assert rollback(place, registry).number == 1
        assert kills.aliases(place.work, "digits") == {"champion": 1, "previous": 2}
        assert rollback(place, registry).number == 2
        place.write("promotion", {"champion": 1, "previous": 2, "is_rollback": False})
        assert rollback(place, registry).number == 2
        assert kills.aliases(place.work, "digits") == {"champion": 2, "previous": 1}


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_twenty_kills_of_retrain_and_promote(tmp_path: Path, make_archives: MakeArchives) -> None:
    work, data, log = Work(tmp_path / "work"), tmp_path / "data", tmp_path / "reader.log"
    make_archives(data, (12, 20), 3, train=400, test=200)
    settings = {"train.batch_size": 32, "train.epochs": 2, "train.learning_rate": 0.003, "gate.delta": 0.1}
    options = ["--data", data, "--work", work.path, "--keep", 2, *(f"--set={k}={v}" for k, v in settings.items())]
    kills.run("retrain", *options)
    begin = time.monotonic()
    kills.run("retrain", *options, "--force")
    retraining = time.monotonic() - begin
    begin = time.monotonic()
    kills.run("models", "rollback", "--name", "data", "--work", work.path)
    promotion = time.monotonic() - begin
    came = []
    with kills.reader(work, "data", (12, 20, 1), log):
        for number, moment in enumerate(kills.moments(20, 1.0, SEED)):
            if number % 3 == 2:
                which = kills.idxtrain("models", "rollback", "--name", "data", "--work", work.path)
                came.append(("rollback", moment * promotion, kills.kill_at(which, moment * promotion)))
                continue
            if number % 3 == 0:
                made = make_archives(tmp_path / f"made{number}", (12, 20), 3, train=60, gz=False, seed=100 + number)
                for kind in ("images", "labels"):
                    idx_form = "idx3" if kind == "images" else "idx1"
                    path = data / f"train-{kind}-day{number}-{idx_form}-ubyte"
                    idx.write(path, idx.read(made[f"train_{kind}"].path))
            which = kills.idxtrain("retrain", *options, "--force")
            came.append(("retrain", moment * retraining, kills.kill_at(which, moment * retraining)))
        kills.run("retrain", *options)
    print(*came, sep="\n")
    assert len([how for *_, how in came if how == "killed"]) >= 15
    lines = log.read_text().splitlines()
    print(
        f"{len(lines)} reads, of versions {sorted({int(n) for line in lines for n in line.split()[1:] if n.isdigit()})}"
    )
    assert [line for line in lines if not line.startswith("read")] == []
    kills.age(work)
    print(kills.run("prune", "--keep", 2, "--work", work.path))
    kills.assert_settled(work, "data")
    assert kills.orphans(work, "data") == []
    assert kills.run("retrain", *options).startswith("nothing new: ")
