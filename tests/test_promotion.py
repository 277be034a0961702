"""Promotions keep whole copies of the champion and of the best champion so far. The registry is MLflow's."""

import logging
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deploy.registry.registry import Registry
from deploy.registry.versions import Entry, Version
from jobs.errors import IdxtrainError, InputError
from jobs.files import sealed, sha256_file, write_json
from jobs.run_dir import RunDir, Work
from pipelines.config import compose
from pipelines.gate.facts import ModelFacts
from pipelines.request import Options
from pipelines.retraining.best_champion import best_after, best_besides
from pipelines.retraining.comparison import Comparison
from pipelines.retraining.promotion import finish_promotion, promote, record_champion, rollback
from pipelines.retraining.prune import needed_runs
from pipelines.retraining.records import (
    BestChampion,
    Champion,
    FileStamp,
    Inputs,
    Notification,
    Pending,
    Promotion,
    Record,
    Rivals,
    State,
)
from pipelines.retraining.retrain import RetrainOptions, _Retraining, retrain
from pipelines.retraining.retrain_dir import RetrainDir
from tests.support.champions import TRAINING_DATA, champion_entry
from tests.test_registry import model

__all__ = ["model"]  # a fixture


@pytest.fixture
def retrain_dir(tmp_path: Path) -> RetrainDir:
    folder = RetrainDir(Work(tmp_path / "work"), "digits")
    folder.make()
    return folder


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of an empty registry, which takes seconds to make."""
    work = Work(tmp_path_factory.mktemp("registry") / "work")
    Registry(work, "digits", {}).versions()
    return work.registry / "mlflow.db"


@pytest.fixture
def registry(retrain_dir: RetrainDir, database: Path) -> Registry:
    retrain_dir.work.registry.mkdir(mode=0o700)
    shutil.copy(database, retrain_dir.work.registry)
    return Registry(retrain_dir.work, "digits", {})


def other_model(model: Path, folder: Path, number: int) -> Entry:
    """Return the entry of a run with other weights, so another SHA-256."""
    import keras

    path = folder / f"{number}.keras"
    network = keras.models.load_model(model)
    network.layers[-2].bias.assign([float(number)] * 4)
    network.save(path)
    return replace(champion_entry(path), run_id=f"r{number}", model=path, model_sha256=sha256_file(path))


CHAMPION = Champion(version=1, run_id="r1", model_sha256="0" * 64, data=TRAINING_DATA)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:1000])


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def remove(file: Path) -> None:
    file.unlink()


@pytest.mark.parametrize("damage", [truncate, flip, remove])
def test_a_damaged_copy_of_the_champion_is_fetched_again(
    damage: Callable[[Path], None],
    retrain_dir: RetrainDir,
    registry: Registry,
    model: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    promote(retrain_dir, registry, registry.register(champion_entry(model)))
    champion = retrain_dir.read(Champion)
    assert champion is not None
    file = retrain_dir.copy_of(champion)
    damage(file)
    assert not retrain_dir.has_copy(champion)
    retraining = _Retraining(RetrainOptions(options=Options()), compose("fast", {}), retrain_dir)
    assert not retraining._has_copies()
    assert record_champion(retrain_dir, registry) == champion
    assert file.read_bytes() == model.read_bytes()
    assert retraining._has_copies()
    (line,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert line == "digits: the champion's copy was damaged or missing; fetched it again from the registry"
    assert [path.name for path in retrain_dir.models.iterdir()] == [file.name]


def test_without_a_registry_a_damaged_copy_stops_a_retraining_before_it_trains(
    retrain_dir: RetrainDir, registry: Registry, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    promote(retrain_dir, registry, registry.register(champion_entry(model)))
    champion = retrain_dir.read(Champion)
    assert champion is not None
    truncate(retrain_dir.copy_of(champion))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    with pytest.raises(IdxtrainError, match=r"found a damaged copy of the champion in .*no registry to fetch it from"):
        _Retraining(RetrainOptions(options=Options()), compose("fast", {}), retrain_dir).run()
    assert not retrain_dir.work.runs.exists()
    assert retrain_dir.read(Notification) is None  # delivered, as there is no receiver


def test_a_copy_appears_whole_or_not_at_all(
    retrain_dir: RetrainDir, registry: Registry, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is flushed to disk before it is renamed: a power cut leaves no half-written file of the final name."""
    synced: list[str] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    version = registry.register(champion_entry(model))
    monkeypatch.setattr(os, "fsync", watched)
    file = registry.model_file(version, retrain_dir.models)
    assert any(name.endswith(file.name) and name != str(file) for name in synced)


# --- the best champion so far


def by_gate(retrain_dir: RetrainDir, registry: Registry, entry: Entry, accuracies: dict[str, float]) -> Version:
    """Promote as the gate does, after an evaluation with these accuracies of "challenger", "champion" and "best"."""
    version = registry.register(entry)
    champion = retrain_dir.read(Champion)
    rivals = Rivals(champion=champion, best=best_besides(retrain_dir, champion))
    comparison = Comparison(
        model=ModelFacts(bytes=1, latency_ms=1.0, difference=0.0),
        champion_accuracy=accuracies["champion"] if rivals.champion else None,
        best_accuracy=accuracies["best"] if rivals.best else None,
    )
    promote(retrain_dir, registry, version, best_after(version, accuracies["challenger"], comparison, rivals))
    return version


def best_run(retrain_dir: RetrainDir) -> str | None:
    best = best_besides(retrain_dir, retrain_dir.read(Champion))
    return best.run_id if best else None


def test_the_best_champion_is_kept_while_worse_ones_are_promoted(
    retrain_dir: RetrainDir, registry: Registry, model: Path, tmp_path: Path
) -> None:
    by_gate(retrain_dir, registry, other_model(model, tmp_path, 1), {"challenger": 0.990})
    assert best_run(retrain_dir) is None  # it is the champion itself
    by_gate(retrain_dir, registry, other_model(model, tmp_path, 2), {"challenger": 0.988, "champion": 0.990})
    assert best_run(retrain_dir) == "r1"
    accuracies = {"challenger": 0.986, "champion": 0.988, "best": 0.990}
    by_gate(retrain_dir, registry, other_model(model, tmp_path, 3), accuracies)
    assert best_run(retrain_dir) == "r1"
    best = retrain_dir.read(BestChampion)
    assert best is not None
    assert sha256_file(retrain_dir.copy_of(best)) == sha256_file(tmp_path / "1.keras")
    assert len(list(retrain_dir.models.iterdir())) == 2  # of the champion and of the best champion
    assert {"r1", "r3"} <= needed_runs(retrain_dir)  # never pruned
    truncate(retrain_dir.copy_of(best))
    record_champion(retrain_dir, registry)
    assert retrain_dir.has_copy(best)
    by_gate(
        retrain_dir, registry, other_model(model, tmp_path, 4), {"challenger": 0.991, "champion": 0.986, "best": 0.990}
    )
    assert best_run(retrain_dir) is None
    assert len(list(retrain_dir.models.iterdir())) == 1


def test_after_a_rollback_the_champion_counts_as_the_best_until_the_rollback_is_undone(
    retrain_dir: RetrainDir, registry: Registry, model: Path, tmp_path: Path
) -> None:
    by_gate(retrain_dir, registry, other_model(model, tmp_path, 1), {"challenger": 0.990})
    by_gate(retrain_dir, registry, other_model(model, tmp_path, 2), {"challenger": 0.988, "champion": 0.990})
    rollback(retrain_dir, registry)
    assert best_run(retrain_dir) is None
    rollback(retrain_dir, registry)
    assert best_run(retrain_dir) == "r1"


def test_a_retraining_compares_with_champion_and_best_champion(
    retrain_dir: RetrainDir, registry: Registry, model: Path, tmp_path: Path
) -> None:
    by_gate(retrain_dir, registry, other_model(model, tmp_path, 1), {"challenger": 0.990})
    by_gate(retrain_dir, registry, other_model(model, tmp_path, 2), {"challenger": 0.988, "champion": 0.990})
    retraining = _Retraining(RetrainOptions(options=Options()), compose("fast", {}), retrain_dir)
    pending = retraining._begin(Inputs(settings="settings", content="content", seen=()))
    config = retraining._config_for(pending).evaluate
    assert sha256_file(Path(config.best)) == config.best_sha256 == sha256_file(tmp_path / "1.keras")
    assert sha256_file(Path(config.champion)) == sha256_file(tmp_path / "2.keras")


def test_a_resumed_retraining_keeps_its_config_after_the_champions_dataset_was_removed(
    retrain_dir: RetrainDir, registry: Registry, model: Path, tmp_path: Path
) -> None:
    by_gate(retrain_dir, registry, other_model(model, tmp_path, 1), {"challenger": 0.990})
    dataset = retrain_dir.work.datasets / ("0" * 16)
    dataset.mkdir(parents=True)
    record = RunDir(retrain_dir.work.runs / "r1").record_file("prepare")
    record.parent.mkdir(parents=True)
    write_json(record, sealed({"key": "k", "outputs": {"dataset": str(dataset)}, "files": [], "seconds": 1.0}))
    retraining = _Retraining(RetrainOptions(options=Options()), compose("fast", {}), retrain_dir)
    inputs = Inputs(settings="settings", content="content", seen=())
    begun = retraining._config_for(retraining._begin(inputs))
    assert begun.evaluate.champion_dataset == str(dataset)
    dataset.rmdir()
    assert retraining._config_for(retraining._begin(inputs)) == begun


def test_a_kill_during_a_promotion_does_not_lose_the_best_champion(
    retrain_dir: RetrainDir, registry: Registry, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_gate(retrain_dir, registry, other_model(model, tmp_path, 1), {"challenger": 0.990})

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    second = other_model(model, tmp_path, 2)
    with monkeypatch.context() as killed:
        killed.setattr(registry, "set_alias", die)
        with pytest.raises(KeyboardInterrupt):
            by_gate(retrain_dir, registry, second, {"challenger": 0.988, "champion": 0.990})
    finish_promotion(retrain_dir, registry)
    assert best_run(retrain_dir) == "r1"


def test_a_config_without_a_best_champion_leaves_its_key_out() -> None:
    """So the stages of runs from before that key stay done."""
    assert "best" not in compose("fast", {}).to_json()["evaluate"]


def test_without_a_champion_a_users_champion_is_not_compared_with(retrain_dir: RetrainDir) -> None:
    config = compose("fast", {"evaluate.champion": "/strange.keras", "evaluate.champion_sha256": "0" * 64})
    retraining = _Retraining(RetrainOptions(options=Options()), config, retrain_dir)
    inputs = Inputs(settings="settings", content="content", seen=())
    pending = Pending(run_id="r1", inputs=inputs, rivals=Rivals(champion=None, best=None), warm_start=False)
    assert retraining._config_for(pending).evaluate.champion == ""


def test_a_lock_torn_by_a_power_cut_lets_a_scheduled_retraining_do_nothing(
    retrain_dir: RetrainDir, make_archives: Any, tmp_path: Path
) -> None:
    make_archives(tmp_path / "digits", (6, 5), 4, train=20, test=40)
    (retrain_dir.path / "lock.json").write_text("{")
    outcome = retrain(RetrainOptions(options=Options(data=tmp_path / "digits", work=retrain_dir.work.path)))
    assert outcome.event == "busy"
    assert "names no process" in outcome.text


def test_a_test_set_too_small_for_delta_is_reported_before_the_training(
    retrain_dir: RetrainDir, make_archives: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_archives(tmp_path / "data", (6, 5), 4, train=20, test=40)
    config = compose("fast", {"fetch.data": str(tmp_path / "data"), "fetch.dataset": "data"})
    retraining = _Retraining(RetrainOptions(options=Options()), config, retrain_dir)
    retraining._warn_of_small_test_set()
    assert caplog.text == ""  # a first model is not compared
    retrain_dir.write(CHAMPION)
    retraining._warn_of_small_test_set()
    assert "found 40 test images, expected at least 602" in caplog.text
    assert "gate.delta=0.073 or more" in caplog.text


# --- records on disk


RECORDS: list[Record] = [
    CHAMPION,
    BestChampion(version=1, run_id="r1", model_sha256="0" * 64, accuracy=0.9, champion_run="r2"),
    Promotion(champion=2, previous=None, is_rollback=False),
    State(
        run_id="r1",
        inputs=Inputs(settings="s", content="c", seen=(FileStamp("train\udcff", 1, 2),)),
        event="promoted",
        text="promoted",
    ),
    Notification(id="r1-failed-0", event="failed", name="digits", run_id=None, reason="disk full"),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_is_read_as_it_was_written_or_counts_as_missing_if_damaged(
    record: Record, retrain_dir: RetrainDir
) -> None:
    retrain_dir.write(record)
    assert retrain_dir.read(type(record)) == record
    flip(retrain_dir.path / record.file_name)
    assert retrain_dir.read(type(record)) is None


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
@pytest.mark.parametrize("change", ["another key", "a missing key"])
def test_a_record_of_another_version_is_refused_in_one_line(
    record: Record, change: str, retrain_dir: RetrainDir
) -> None:
    value = record.to_json()
    if change == "another key":
        value["parts"] = []
    else:
        value.pop(next(iter(type(record).model_fields)))
    file = retrain_dir.path / record.file_name
    write_json(file, sealed(value))
    with pytest.raises(InputError) as caught:
        retrain_dir.read(type(record))
    expected = f"{file}: found another format \\(.*\\), expected that of this version; fix: remove it"
    assert re.match(expected, str(caught.value))


def test_a_champion_whose_registry_entry_is_of_another_version_is_refused_in_one_line(
    retrain_dir: RetrainDir, registry: Registry, model: Path
) -> None:
    version = registry.register(replace(champion_entry(model), data={"training": {}, "parts": []}))
    with pytest.raises(InputError, match=r"digits version 1, training data: found another format .*; fix: retrain"):
        promote(retrain_dir, registry, version)
