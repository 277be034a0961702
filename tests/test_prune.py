"""`idxtrain prune`: what it removes and what it never removes. Runs and datasets are fakes; MLflow is real."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from deploy.registry.registry import Registry
from deploy.registry.tracking import RegistryDownError
from deploy.registry.versions import CHALLENGER, CHAMPION, PREVIOUS
from jobs import segments
from jobs.errors import InputError
from jobs.files import sealed, write_json
from jobs.lease import Lease
from jobs.run_dir import RunDir, Work
from pipelines.lock import RunLock
from pipelines.retraining.prune import Pruning, summary
from pipelines.retraining.records import Champion, Inputs, Pending, Promotion, Rivals, State
from pipelines.retraining.retrain_dir import RetrainDir
from tests.support.champions import TRAINING_DATA

NO_REGISTRY = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:1"}


def run_id(day: int) -> str:
    return f"202601{day:02d}-030000-fast-aaaa"


def make_run(work: Work, day: int, *, is_own: bool = False, is_prepared: bool = True, name: str = "digits") -> RunDir:
    """Make a run with its own dataset, which consists of a segment shared by all and one of its own."""
    run = RunDir(work.runs / run_id(day))
    run.path.mkdir(parents=True)
    write_json(run.config_file, {"fetch": {"dataset": name}, "evaluate": {"compare": not is_own}})
    (run.path / "model.keras").write_text("weights")
    dataset = work.datasets / f"{day:016x}"
    if is_prepared:
        for split in ("train", "test"):
            (dataset / split).mkdir(parents=True)
        if not is_own:
            ids = [f"{number:016x}" for number in (1000, 1000 + day)]
            info = segments.SegmentInfo(tag="a", segment_id=ids[1], rows=5, label_counts=(5,), mean=0.5, std=0.1)
            segments.write_segments(dataset, ids[0], [info])
            for segment_id in ids:
                (work.segments / segment_id).mkdir(parents=True, exist_ok=True)
        run.record_file("prepare").parent.mkdir()
        record = {"key": "k", "outputs": {"dataset": str(dataset)}, "files": [], "seconds": 1.0}
        write_json(run.record_file("prepare"), sealed(record))
    return run


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a work folder of twelve days of retraining, and its registry."""
    work = Work(tmp_path_factory.mktemp("prune") / "work")
    for day in range(1, 13):
        make_run(work, day, is_own=day == 5, is_prepared=day != 6)
    retrain_dir = RetrainDir(work, "digits")
    retrain_dir.make()
    registry = Registry(work, "digits", {})
    client = registry._client
    client.create_registered_model("digits")
    experiment = registry._experiment()
    for day in (1, 2, 3, 9, 12):
        mlflow_run = client.create_run(experiment, tags={"idxtrain.run_id": run_id(day)})
        if day < 12:  # the last one was killed before it had a version
            client.create_model_version(
                "digits", f"{work.path}/none", mlflow_run.info.run_id, {"idxtrain.run_id": run_id(day)}
            )
    registry.set_alias(PREVIOUS, 1)
    registry.set_alias(CHAMPION, 2)
    registry.set_alias(CHALLENGER, 4)
    inputs = Inputs(settings="", content="", seen=())
    champion = Champion(version=2, run_id=run_id(2), model_sha256="0" * 64, data=TRAINING_DATA)
    rivals = Rivals(champion=champion, best=None)
    retrain_dir.write(Pending(run_id=run_id(6), inputs=inputs, rivals=rivals, warm_start=False))
    retrain_dir.write(State(run_id=run_id(9), inputs=inputs, event="rejected", text=""))
    retrain_dir.add_waiting(run_id(7), rivals)
    return work.path


@pytest.fixture
def work(template: Path, tmp_path: Path) -> Work:
    """Return a copy of it, with the paths in its records corrected."""
    shutil.copytree(template, tmp_path / "work")
    work = Work(tmp_path / "work")
    for folder in work.runs.iterdir():
        record = RunDir(folder).record_file("prepare")
        if record.exists():
            dataset = work.datasets / f"{int(folder.name[6:8]):016x}"
            content = {"key": "k", "outputs": {"dataset": str(dataset)}, "files": [], "seconds": 1.0}
            write_json(record, sealed(content))
    return work


def days(folder: Path) -> list[int]:
    return sorted(int(path.name[6:8]) for path in folder.iterdir())


def numbers(folder: Path) -> list[int]:
    return sorted(int(path.name, 16) for path in folder.iterdir())


# previous, champion, a run of `idxtrain run`, pending, waiting, the last and a challenger, the newest two
KEPT = [1, 2, 5, 6, 7, 9, 11, 12]


def test_old_runs_are_removed_with_their_data_and_needed_ones_are_kept(work: Work) -> None:
    planned = Pruning(work, 2, {}, is_dry=True).run()
    assert days(work.runs) == list(range(1, 13))
    removed = Pruning(work, 2, {}).run()
    assert removed == planned
    assert days(work.runs) == KEPT
    assert numbers(work.datasets) == [day for day in KEPT if day != 6]
    assert numbers(work.segments) == [1000, *(1000 + day for day in KEPT if day not in (5, 6))]
    assert summary(removed) == "1 registration, 4 runs, 4 datasets, 4 segments"
    assert not list(work.bin.iterdir())
    registry = Registry(work, "digits", {})
    assert [version.number for version in registry.versions()] == [4, 3, 2, 1]
    assert registry.orphans() == []
    assert Pruning(work, 2, {}).run() == []


def test_versions_without_an_alias_are_removed_if_asked(work: Work) -> None:
    removed = Pruning(work, 2, {}, versions=True).run()
    assert [removal.name for removal in removed if removal.kind == "version"] == ["digits 3"]
    assert [version.number for version in Registry(work, "digits", {}).versions()] == [4, 2, 1]


def test_a_version_that_a_killed_promotion_has_still_to_name_is_kept(work: Work) -> None:
    RetrainDir(work, "digits").write(Promotion(champion=3, previous=2, is_rollback=False))
    Pruning(work, 2, {}, versions=True).run()
    assert [version.number for version in Registry(work, "digits", {}).versions()] == [4, 3, 2, 1]


def test_a_run_in_use_is_kept_with_its_data(work: Work) -> None:
    with RunLock(RunDir(work.runs / run_id(3))):
        Pruning(work, 2, {}).run()
    assert days(work.runs) == sorted([*KEPT, 3])
    assert 3 in numbers(work.datasets)
    assert 1003 in numbers(work.segments)


@pytest.mark.parametrize("why", ["under way", "unreadable"])
def test_data_are_kept_while_their_users_are_unknown(work: Work, why: str) -> None:
    before = numbers(work.datasets), numbers(work.segments)
    run = make_run(work, 20, is_prepared=False)
    if why == "unreadable":
        run.config_file.write_text("{")
        Pruning(work, 2, {}).run()
    else:
        with RunLock(run):
            Pruning(work, 2, {}).run()
    assert (numbers(work.datasets), numbers(work.segments)) == before
    assert 3 not in days(work.runs)


def test_nothing_is_removed_while_the_registry_is_unreachable(work: Work) -> None:
    with pytest.raises(RegistryDownError):
        Pruning(work, 2, NO_REGISTRY).run()
    assert days(work.runs) == list(range(1, 13))


def test_the_newest_runs_of_each_model_are_kept(work: Work) -> None:
    make_run(work, 25, name="letters")
    Pruning(work, 2, {}).run()
    assert days(work.runs) == [*KEPT, 25]


def test_the_newest_runs_are_those_made_last_even_if_the_clock_was_set_back(work: Work) -> None:
    make_run(work, 0)
    Pruning(work, 2, {}).run()
    assert days(work.runs) == sorted({*KEPT, 0} - {11})


@pytest.mark.parametrize("how_far", ["just begun", "prepared"])
def test_a_dataset_that_a_run_begins_to_use_meanwhile_is_kept(
    work: Work, monkeypatch: pytest.MonkeyPatch, how_far: str
) -> None:
    """The run begins after prune has listed the runs and before it lists the datasets."""
    sort_runs = Pruning._sort_runs

    def sort_slowly(self: Pruning, *arguments: Any) -> Any:
        runs = sort_runs(self, *arguments)
        run = make_run(work, 20, is_own=True, is_prepared=how_far == "prepared")
        record = run.record_file("prepare")
        if record.exists():
            record.write_text(record.read_text().replace(f"{20:016x}", f"{3:016x}"))
            content = json.loads(record.read_text())
            content.pop("sha256")
            write_json(record, sealed(content))
        return runs

    monkeypatch.setattr(Pruning, "_sort_runs", sort_slowly)
    Pruning(work, 2, {}).run()
    assert 3 not in days(work.runs)
    assert 3 in numbers(work.datasets)
    assert 1003 in numbers(work.segments)


def leftovers(work: Work) -> list[Path]:
    retrain_dir = RetrainDir(work, "digits")
    return [
        retrain_dir.path / ".0a1b2c3d.tmp-state.json",
        retrain_dir.path / ".0123456789abcdef.lock",
        retrain_dir.outbox / ".0a1b2c3d.tmp-r.json",
        retrain_dir.models / ".123-abc.keras",
        work.registry / ".new-77.db",
        work.scratch / "tmp1234",
        work.datasets / ".tmp-0123456789abcdef-0a1b2c3d",
        work.segments / ".tmp-0123456789abcdef-0a1b2c3d",
        work.runs / "20260101-000000-fast-none",  # killed before it had a config
        work.bin / "0a1b2c3d-half-removed",
        work.runs / run_id(12) / ".0a1b2c3d.tmp-metrics.json",
        work.runs / run_id(5) / "checkpoints" / ".0a1b2c3d.tmp-step-00000003.safetensors",
        work.archives / "mnist" / ".0a1b2c3d.tmp-train-images",
        work.locks / ".after-0123456789abcdef.lock",
        work.locks / "dataset-0123456789abcdef.json",
    ]


def put(paths: Iterable[Path], age: float) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch() if path.suffix else path.mkdir()
        status = path.stat()
        os.utime(path, (status.st_atime, status.st_mtime - age))


def test_leftovers_of_kills_are_removed_once_they_are_old(work: Work) -> None:
    paths = leftovers(work)
    put(paths, 7200)
    Pruning(work, 2, {}).run()
    assert [path for path in paths if path.exists()] == []


def test_files_of_a_living_process_are_kept(work: Work) -> None:
    paths = leftovers(work)[:6] + leftovers(work)[8:9] + leftovers(work)[10:14]
    put(paths, 0)
    building = leftovers(work)[6]
    building.mkdir()
    with Lease(work.lease_file("dataset-0123456789abcdef"), "it"):
        Pruning(work, 2, {}).run()
    assert all(path.exists() for path in [*paths, building])


def test_files_of_a_run_in_use_are_kept_however_old(work: Work) -> None:
    """A long evaluation writes its first part hours before it reads it."""
    run = RunDir(work.runs / "long")
    part = run.path / ".0123456789abcdef-validation-0-of-2.float32"
    put([part], 7200)
    with RunLock(run):
        Pruning(work, 2, {}).run()
        assert part.exists()
    Pruning(work, 2, {}).run()
    assert not part.exists()


def test_a_second_prune_and_a_missing_folder_are_refused(work: Work, tmp_path: Path) -> None:
    with Lease(work.lease_file("prune"), "it"), pytest.raises(InputError, match="found another prune running"):
        Pruning(work, 2, {}).run()
    with pytest.raises(InputError, match="found no such folder"):
        Pruning(Work(tmp_path / "nowhere"), 2, {}).run()
    assert not (tmp_path / "nowhere").exists()


def test_the_command_prints_what_it_removes(work: Work) -> None:
    command = [sys.executable, "-m", "pipelines.cli", "prune", "--keep", "2", "--work", str(work.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"removed run {run_id(3)}\nremoved run {run_id(4)}\n" in done.stdout
    assert done.stdout.endswith("1 registration, 4 runs, 4 datasets, 4 segments\n")
    assert days(work.runs) == KEPT


def test_a_folder_of_no_model_is_kept_and_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    work = Work(tmp_path / "work")
    RetrainDir(work, "digits").make()
    for odd in ("a'b", "a b", "ü", "x" * 101):
        (work.retrains / odd).mkdir()
    assert Pruning(work, 2, {}).run() == []
    assert sorted(path.name for path in work.retrains.iterdir()) == sorted(["digits", "a'b", "a b", "ü", "x" * 101])
    assert "a'b: not the folder of a registered model; it is kept" in caplog.text
