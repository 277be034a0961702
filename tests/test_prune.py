"""`idxtrain prune`: what goes, and what never does. Runs and datasets are made up; the registry is MLflow's."""

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
from pipelines.retraining.retrain_dir import RetrainDir

NOBODY = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:1"}


def run_id(day: int) -> str:
    return f"202601{day:02d}-030000-fast-aaaa"


def make_run(work: Work, day: int, *, is_own: bool = False, is_prepared: bool = True, name: str = "digits") -> RunDir:
    """Make a run of its own dataset, which is made of part 0, for all, and a part of its own."""
    run = RunDir(work.runs / run_id(day))
    run.path.mkdir(parents=True)
    write_json(run.config_file, {"fetch": {"dataset": name}, "evaluate": {"compare": not is_own}})
    (run.path / "model.keras").write_text("weights")
    dataset = work.datasets / f"{day:016x}"
    if is_prepared:
        for split in ("train", "test"):
            (dataset / split).mkdir(parents=True)
        if not is_own:
            made = [f"{number:016x}" for number in (1000, 1000 + day)]
            info = segments.SegmentInfo(tag="a", segment_id=made[1], rows=5, label_counts=(5,), mean=0.5, std=0.1)
            segments.write_segments(dataset, made[0], [info])
            for part in made:
                (work.segments / part).mkdir(parents=True, exist_ok=True)
        run.record_file("prepare").parent.mkdir()
        record = {"key": "k", "outputs": {"dataset": str(dataset)}, "files": [], "seconds": 1.0}
        write_json(run.record_file("prepare"), sealed(record))
    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a work directory of twelve days of retraining, and its registry."""
    work = Work(tmp_path_factory.mktemp("prune") / "work")
    for day in range(1, 13):
        make_run(work, day, is_own=day == 5, is_prepared=day != 6)
    place = RetrainDir(work, "digits")
    place.make()
    registry = Registry(work, "digits", {})
    client = registry._client
    client.create_registered_model("digits")
    experiment = registry._experiment()
    for day in (1, 2, 3, 9, 12):
        made = client.create_run(experiment, tags={"idxtrain.run_id": run_id(day)})
        if day < 12:  # the last one was killed before it had a version
            client.create_model_version(
                "digits", f"{work.path}/none", made.info.run_id, {"idxtrain.run_id": run_id(day)}
            )
    registry.set_alias(PREVIOUS, 1)
    registry.set_alias(CHAMPION, 2)
    registry.set_alias(CHALLENGER, 4)
    pending = {"run_id": run_id(6), "champion_run": run_id(2), "champion": "", "initial": ""}
    place.write("pending", pending)
    place.write("state", {"run_id": run_id(9)})
    write_json(place.outbox / f"{run_id(7)}.json", {"champion": None})
    return work.path


@pytest.fixture
def work(made: Path, tmp_path: Path) -> Work:
    """Return a copy of it; the paths in its records are mended."""
    shutil.copytree(made, tmp_path / "work")
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


STAY = [
    1,
    2,
    5,
    6,
    7,
    9,
    11,
    12,
]  # previous, champion, one's own, pending, waiting, the last and a challenger, newest two


def test_old_runs_go_with_their_data_and_what_is_needed_stays(work: Work) -> None:
    told = Pruning(work, 2, {}, is_dry=True).run()
    assert days(work.runs) == list(range(1, 13))
    removed = Pruning(work, 2, {}).run()
    assert removed == told
    assert days(work.runs) == STAY
    assert numbers(work.datasets) == [day for day in STAY if day != 6]
    assert numbers(work.segments) == [1000, *(1000 + day for day in STAY if day not in (5, 6))]
    assert summary(removed) == "1 registration, 4 runs, 4 datasets, 4 parts"
    assert not list(work.bin.iterdir())
    registry = Registry(work, "digits", {})
    assert [version.number for version in registry.versions()] == [4, 3, 2, 1]
    assert registry.orphans() == []
    assert Pruning(work, 2, {}).run() == []


def test_versions_go_when_asked_but_none_with_an_alias(work: Work) -> None:
    removed = Pruning(work, 2, {}, versions=True).run()
    assert [removal.name for removal in removed if removal.kind == "version"] == ["digits 3"]
    assert [version.number for version in Registry(work, "digits", {}).versions()] == [4, 2, 1]


def test_a_version_that_a_killed_promotion_is_about_to_be_stays(work: Work) -> None:
    RetrainDir(work, "digits").write("promotion", {"champion": 3, "previous": 2, "is_rollback": False})
    Pruning(work, 2, {}, versions=True).run()
    assert [version.number for version in Registry(work, "digits", {}).versions()] == [4, 3, 2, 1]


def test_a_run_in_use_stays_and_its_data(work: Work) -> None:
    with RunLock(RunDir(work.runs / run_id(3))):
        Pruning(work, 2, {}).run()
    assert days(work.runs) == sorted([*STAY, 3])
    assert 3 in numbers(work.datasets)
    assert 1003 in numbers(work.segments)


@pytest.mark.parametrize("why", ["under way", "unreadable"])
def test_data_stay_while_it_is_not_known_who_uses_them(work: Work, why: str) -> None:
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


def test_nothing_goes_while_the_registry_is_away(work: Work) -> None:
    with pytest.raises(RegistryDownError):
        Pruning(work, 2, NOBODY).run()
    assert days(work.runs) == list(range(1, 13))


def test_each_model_keeps_its_newest(work: Work) -> None:
    make_run(work, 25, name="letters")
    Pruning(work, 2, {}).run()
    assert days(work.runs) == [*STAY, 25]


def test_the_newest_are_those_made_last_though_the_clock_was_set_back(work: Work) -> None:
    make_run(work, 0)
    Pruning(work, 2, {}).run()
    assert days(work.runs) == sorted({*STAY, 0} - {11})


@pytest.mark.parametrize("how_far", ["just begun", "prepared"])
def test_a_dataset_that_a_run_comes_to_use_meanwhile_stays(
    work: Work, monkeypatch: pytest.MonkeyPatch, how_far: str
) -> None:
    """The run begins between prune's look at the runs and its look at the data, and finds the dataset there."""
    look = Pruning._look

    def look_and_be_slow(self: Pruning, *arguments: Any) -> Any:
        found = look(self, *arguments)
        run = make_run(work, 20, is_own=True, is_prepared=how_far == "prepared")
        record = run.record_file("prepare")
        if record.exists():
            record.write_text(record.read_text().replace(f"{20:016x}", f"{3:016x}"))
            content = json.loads(record.read_text())
            content.pop("sha256")
            write_json(record, sealed(content))
        return found

    monkeypatch.setattr(Pruning, "_look", look_and_be_slow)
    Pruning(work, 2, {}).run()
    assert 3 not in days(work.runs)
    assert 3 in numbers(work.datasets)
    assert 1003 in numbers(work.segments)


def leftovers(work: Work) -> list[Path]:
    place = RetrainDir(work, "digits")
    return [
        place.path / ".0a1b2c3d.tmp-state.json",
        place.path / ".0123456789abcdef.lock",
        place.outbox / ".0a1b2c3d.tmp-r.json",
        place.models / ".123-abc.keras",
        work.registry / ".new-77.db",
        work.scratch / "tmp1234",
        work.datasets / ".tmp-0123456789abcdef-0a1b2c3d",
        work.segments / ".tmp-0123456789abcdef-0a1b2c3d",
        work.runs / "20260101-000000-fast-none",  # a run that was killed before it had a config
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


def test_what_kills_leave_goes_once_it_is_old(work: Work) -> None:
    paths = leftovers(work)
    put(paths, 7200)
    Pruning(work, 2, {}).run()
    assert [path for path in paths if path.exists()] == []


def test_what_a_living_process_is_writing_stays(work: Work) -> None:
    paths = leftovers(work)[:6] + leftovers(work)[8:9] + leftovers(work)[10:14]
    put(paths, 0)
    building = leftovers(work)[6]
    building.mkdir()
    with Lease(work.lease_file("dataset-0123456789abcdef"), "it"):
        Pruning(work, 2, {}).run()
    assert all(path.exists() for path in [*paths, building])


def test_two_at_once_and_no_folder_are_said(work: Work, tmp_path: Path) -> None:
    with Lease(work.lease_file("prune"), "it"), pytest.raises(InputError, match="another one is at work"):
        Pruning(work, 2, {}).run()
    with pytest.raises(InputError, match="there is no such folder"):
        Pruning(Work(tmp_path / "nowhere"), 2, {}).run()
    assert not (tmp_path / "nowhere").exists()


def test_the_command_tells_what_it_removes(work: Work) -> None:
    command = [sys.executable, "-m", "pipelines.cli", "prune", "--keep", "2", "--work", str(work.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"removed run {run_id(3)}\nremoved run {run_id(4)}\n" in done.stdout
    assert done.stdout.endswith("1 registration, 4 runs, 4 datasets, 4 parts\n")
    assert days(work.runs) == STAY


def test_an_odd_folder_stays_and_breaks_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    work = Work(tmp_path / "work")
    RetrainDir(work, "digits").make()
    for odd in ("a'b", "a b", "ü", "x" * 101):
        (work.retrains / odd).mkdir()
    assert Pruning(work, 2, {}).run() == []
    assert sorted(path.name for path in work.retrains.iterdir()) == sorted(["digits", "a'b", "a b", "ü", "x" * 101])
    assert "a'b is no registered model's folder; it stays" in caplog.text
