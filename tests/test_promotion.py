"""What a promotion leaves: whole copies of the champion and of the best one so far. The registry is MLflow's."""

import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deploy.registry.registry import Registry
from deploy.registry.versions import Entry, Version
from jobs.errors import IdxtrainError
from jobs.files import sha256_file
from jobs.run_dir import Work
from pipelines.config import compose
from pipelines.request import Options
from pipelines.retraining.best_champion import best_after, best_besides
from pipelines.retraining.promotion import finish_promotion, note_champion, promote, rollback
from pipelines.retraining.prune import _needed
from pipelines.retraining.retrain import Retrain, _Retraining
from pipelines.retraining.retrain_dir import RetrainDir
from tests.test_registry import entry_of, model

__all__ = ["model"]  # a fixture


@pytest.fixture
def place(tmp_path: Path) -> RetrainDir:
    made = RetrainDir(Work(tmp_path / "work"), "digits")
    made.make()
    return made


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an empty registry's file, which takes seconds to make."""
    work = Work(tmp_path_factory.mktemp("registry") / "work")
    Registry(work, "digits", {}).versions()
    return work.registry / "mlflow.db"


@pytest.fixture
def registry(place: RetrainDir, database: Path) -> Registry:
    place.work.registry.mkdir(mode=0o700)
    shutil.copy(database, place.work.registry)
    return Registry(place.work, "digits", {})


def other_model(model: Path, folder: Path, number: int) -> Entry:
    """Return a run of a model of its own: other weights, so another SHA-256."""
    import keras

    path = folder / f"{number}.keras"
    network = keras.models.load_model(model)
    network.layers[-2].bias.assign([float(number)] * 4)
    network.save(path)
    return replace(entry_of(path), run_id=f"r{number}", model=path, model_sha256=sha256_file(path))


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
    damage: Callable[[Path], None], place: RetrainDir, registry: Registry, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    promote(place, registry, registry.register(entry_of(model)))
    note = place.read("champion")
    assert note is not None
    file = place.champion_file(note)
    damage(file)
    assert not place.has_copy(note)
    retraining = _Retraining(Retrain(Options()), compose("fast", {}), place)
    assert not retraining._has_copies()
    assert note_champion(place, registry) == note
    assert file.read_bytes() == model.read_bytes()
    assert retraining._has_copies()
    (line,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert line == "digits: the champion's copy was damaged or missing; fetched it again from the registry"
    assert [path.name for path in place.models.iterdir()] == [file.name]


def test_without_a_registry_a_damaged_copy_ends_a_retraining_before_it_trains(
    place: RetrainDir, registry: Registry, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    promote(place, registry, registry.register(entry_of(model)))
    note = place.read("champion")
    assert note is not None
    truncate(place.champion_file(note))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    with pytest.raises(IdxtrainError, match=r"found a damaged copy of the champion in .*no registry to fetch it from"):
        _Retraining(Retrain(Options()), compose("fast", {}), place).run()
    assert not place.work.runs.exists()
    news = place.read("news")
    assert news is None  # there was nobody to tell


def test_a_copy_appears_whole_or_not_at_all(
    place: RetrainDir, registry: Registry, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flushed to disk before its rename: a power cut leaves no file of the right name and half the bytes."""
    synced: list[str] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    version = registry.register(entry_of(model))
    monkeypatch.setattr(os, "fsync", watched)
    file = registry.model_file(version, place.models)
    assert any(name.endswith(file.name) and name != str(file) for name in synced)


# --- the best champion so far


def by_gate(place: RetrainDir, registry: Registry, entry: Entry, accuracies: dict[str, float]) -> Version:
    """Promote as the gate does, where evaluation saw these accuracies of "challenger", "champion" and "best"."""
    version = registry.register(entry)
    champion = place.read("champion")
    rivals = {"champion": champion, "best": best_besides(place, champion)}
    comparison: dict[str, Any] = {key: {"accuracy": accuracies[key]} if rivals[key] else None for key in rivals}
    promote(place, registry, version, best_after(version, accuracies["challenger"], comparison, rivals))
    return version


def best_run(place: RetrainDir) -> str | None:
    best = best_besides(place, place.read("champion"))
    return str(best["run_id"]) if best else None


def test_the_best_champion_is_kept_while_others_are_promoted(
    place: RetrainDir, registry: Registry, model: Path, tmp_path: Path
) -> None:
    by_gate(place, registry, other_model(model, tmp_path, 1), {"challenger": 0.990})
    assert best_run(place) is None  # it is the champion itself
    by_gate(place, registry, other_model(model, tmp_path, 2), {"challenger": 0.988, "champion": 0.990})
    assert best_run(place) == "r1"
    accuracies = {"challenger": 0.986, "champion": 0.988, "best": 0.990}
    by_gate(place, registry, other_model(model, tmp_path, 3), accuracies)
    assert best_run(place) == "r1"
    best = place.read("best")
    assert best is not None
    assert sha256_file(place.champion_file(best)) == sha256_file(tmp_path / "1.keras")
    assert len(list(place.models.iterdir())) == 2  # the champion's and the best one's
    assert {"r1", "r3"} <= _needed(place)  # never pruned
    truncate(place.champion_file(best))
    note_champion(place, registry)
    assert place.has_copy(best)
    by_gate(place, registry, other_model(model, tmp_path, 4), {"challenger": 0.991, "champion": 0.986, "best": 0.990})
    assert best_run(place) is None
    assert len(list(place.models.iterdir())) == 1


def test_a_champion_of_a_persons_choice_begins_again_until_it_is_undone(
    place: RetrainDir, registry: Registry, model: Path, tmp_path: Path
) -> None:
    by_gate(place, registry, other_model(model, tmp_path, 1), {"challenger": 0.990})
    by_gate(place, registry, other_model(model, tmp_path, 2), {"challenger": 0.988, "champion": 0.990})
    rollback(place, registry)
    assert best_run(place) is None
    rollback(place, registry)
    assert best_run(place) == "r1"


def test_a_retraining_compares_with_the_best_too(
    place: RetrainDir, registry: Registry, model: Path, tmp_path: Path
) -> None:
    by_gate(place, registry, other_model(model, tmp_path, 1), {"challenger": 0.990})
    by_gate(place, registry, other_model(model, tmp_path, 2), {"challenger": 0.988, "champion": 0.990})
    retraining = _Retraining(Retrain(Options()), compose("fast", {}), place)
    pending = retraining._pending([], "settings", "content")
    config = retraining._config_for(pending).evaluate
    assert sha256_file(Path(config.best)) == config.best_sha256 == sha256_file(tmp_path / "1.keras")
    assert sha256_file(Path(config.champion)) == sha256_file(tmp_path / "2.keras")


def test_a_kill_amid_a_promotion_does_not_lose_the_best(
    place: RetrainDir, registry: Registry, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_gate(place, registry, other_model(model, tmp_path, 1), {"challenger": 0.990})

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    second = other_model(model, tmp_path, 2)
    with monkeypatch.context() as killed:
        killed.setattr(registry, "set_alias", die)
        with pytest.raises(KeyboardInterrupt):
            by_gate(place, registry, second, {"challenger": 0.988, "champion": 0.990})
    finish_promotion(place, registry)
    assert best_run(place) == "r1"


def test_a_config_without_a_best_champion_is_as_it_was_before() -> None:
    """So that the stages of runs that were made before stay done."""
    assert "best" not in compose("fast", {}).to_json()["evaluate"]


def test_few_test_images_are_told_before_the_training(
    place: RetrainDir, make_archives: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_archives(tmp_path / "data", (6, 5), 4, train=20, test=40)
    config = compose("fast", {"fetch.data": str(tmp_path / "data"), "fetch.dataset": "data"})
    retraining = _Retraining(Retrain(Options()), config, place)
    retraining._warn_of_test_set()
    assert caplog.text == ""  # a first model is compared with none
    place.write("champion", {"run_id": "r1"})
    retraining._warn_of_test_set()
    assert "found 40 test images, expected at least 602" in caplog.text
    assert "gate.delta=0.073 or more" in caplog.text
