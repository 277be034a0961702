"""What is refused before any work starts: one line with the fault and the fix, exit code 2, nothing written."""

import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from jobs.files import sealed, sha256_file
from jobs.run_dir import RunDir
from pipelines.cli import app
from pipelines.lock import RunLock
from tests.conftest import Idxtrain, MakeArchives

# Training is refused before TensorFlow is imported, so this must never appear in the output.
STARTED = "train: 1 rank"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_archives: MakeArchives) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_archives(folder, (6, 8), 2, train=60, test=12)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """Return a work folder with run `r`, which is prepared but not trained."""
    work = tmp_path_factory.mktemp("made") / "work"
    command = ["prepare", "--data", data, "--work", work, "--run-id", "r", "--set", "prepare.rows_per_shard=20"]
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", *map(str, command)], cwd=data, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return work


@pytest.fixture
def prepared(made: Path, tmp_path: Path) -> RunDir:
    """Return a copy of that run in its own work folder."""
    work = tmp_path / "work"
    shutil.copytree(made, work)
    for record in work.glob("runs/r/stages/*.json"):  # they hold absolute paths
        values = json.loads(record.read_text().replace(str(made), str(work)))
        values.pop("sha256")
        record.write_text(json.dumps(sealed(values)))
    return RunDir(work / "runs/r")


def dataset_of(run: RunDir) -> Path:
    (directory,) = run.work.datasets.iterdir()
    return directory


def require_refusal(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("idxtrain: ")]
    for word in words:
        assert word in line
    assert "Traceback" not in done.stderr
    assert STARTED not in done.stderr
    assert done.stdout == ""


# --- not the run that was made


def test_another_config_under_the_same_run_id_is_refused_with_the_differences(
    idxtrain: Idxtrain, prepared: RunDir, data: Path
) -> None:
    before = prepared.config_file.read_text()
    options = ("--data", data, "--set", "prepare.rows_per_shard=20", "--set", "train.epochs=9", "--seed", "5")
    done = idxtrain("train", "--work", prepared.work.path, "--run-id", "r", *options)
    require_refusal(
        done, "--run-id r: was made with another config (seed: 0 in the run, 5 now; train.epochs: 3 in the run, 9"
    )
    assert prepared.config_file.read_text() == before


def test_other_archives_under_the_same_run_id_are_refused_by_name(
    idxtrain: Idxtrain, prepared: RunDir, data: Path, make_archives: MakeArchives, tmp_path: Path
) -> None:
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    # Point the config of the run to a folder whose content changes.
    prepared.config_file.write_text(prepared.config_file.read_text().replace(str(data), str(copy)))
    assert idxtrain("fetch", "--work", prepared.work.path, "--run-id", "r").returncode == 0
    new = make_archives(tmp_path / "other", (6, 8), 2, train=60, test=12, seed=1)["train_labels"].path
    old = sha256_file(copy / new.name)
    new.replace(copy / new.name)
    for _ in range(2):  # the second time, fetch is already done
        done = idxtrain("train", "--work", prepared.work.path, "--run-id", "r")
        name, now = new.name, sha256_file(copy / new.name)
        changed = f"(train_labels: {name} {old[:12]}… in the run, {name} {now[:12]}… now)"
        require_refusal(done, f"--run-id r: was made from other archives {changed}; fix: restore them, or give another")
    assert len(list(prepared.work.datasets.iterdir())) == 1


def test_a_second_process_on_the_same_run_changes_nothing(idxtrain: Idxtrain, prepared: RunDir) -> None:
    before = prepared.config_file.read_text()
    with RunLock(prepared):
        done = idxtrain("train", "--work", prepared.work.path, "--run-id", "r", "--np", 2)
    require_refusal(done, f"--run-id r: process {os.getpid()} on {os.uname().nodename} is working on it")
    assert prepared.config_file.read_text() == before


# --- data that cannot be trained on


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--np", 3, "--set", "train.batch_size=2"), "train.batch_size: found 2, the global batch, for 3 ranks"),
        (("--set", "train.model=nope"), "train.model: found 'nope', expected one of compact, "),
    ],
)
def test_an_impossible_training_is_refused_before_the_first_stage(
    idxtrain: Idxtrain, data: Path, tmp_path: Path, options: tuple[Any, ...], words: str
) -> None:
    command = ("run", "--data", data, "--work", tmp_path / "work", "--run-id", "r")
    require_refusal(idxtrain(*command, *options), words)
    assert not (tmp_path / "work/runs/r/stages").exists()
    done = idxtrain(
        "fetch", "--data", data, "--work", tmp_path / "work", "--run-id", "r"
    )  # with the fault fixed, it is the same run
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("where", ["_common_metadata", "train/_metadata", "train/_common_metadata"])
def test_a_dataset_with_petastorms_own_metadata_is_refused(idxtrain: Idxtrain, prepared: RunDir, where: str) -> None:
    carrier = dataset_of(prepared) / where
    carrier.write_bytes(b"PAR1")
    done = idxtrain("train", "--work", prepared.work.path, "--run-id", "r")
    require_refusal(done, f"{carrier}: found a file that may hold a pickled schema, which is never loaded; fix: ")


def test_parquet_with_a_pickled_schema_is_refused_even_if_the_manifest_matches(
    idxtrain: Idxtrain, prepared: RunDir
) -> None:
    directory = dataset_of(prepared)
    manifest = json.loads((directory / "manifest.json").read_text())
    shard = manifest["splits"]["train"]["shards"][1]
    path = directory / shard["path"]
    table = pq.read_table(path).replace_schema_metadata({"dataset-toolkit.unischema.v1": b"\x80\x04."})
    pq.write_table(table, path, row_group_size=len(table))
    shard |= {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    manifest.pop("sha256")
    (directory / "manifest.json").write_text(json.dumps(sealed(manifest)))
    record = prepared.record_file("prepare")
    values = json.loads(record.read_text())
    status = (directory / "manifest.json").stat()
    values["files"][0] |= {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
    values.pop("sha256")
    record.write_text(json.dumps(sealed(values)))
    done = idxtrain("train", "--work", prepared.work.path, "--run-id", "r")
    require_refusal(done, f"{path}: found a pickled schema, which is never loaded; fix: remove {directory} and ")


def test_a_dataset_with_a_missing_file_is_refused(idxtrain: Idxtrain, prepared: RunDir) -> None:
    shard = dataset_of(prepared) / "validation/part-00000.parquet"
    shard.unlink()
    done = idxtrain("train", "--work", prepared.work.path, "--run-id", "r")
    require_refusal(done, f"{shard}: cannot be read (No such file or directory); fix: remove {dataset_of(prepared)}")


# --- directories


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o702])
@pytest.mark.parametrize("folder", ["", "runs", "runs/r", "datasets"])
def test_a_work_directory_that_everybody_may_write_is_refused(
    idxtrain: Idxtrain, tmp_path: Path, data: Path, folder: str, mode: int
) -> None:
    work = tmp_path / "work"
    for name in ("runs/r", "datasets"):
        (work / name).mkdir(parents=True)
    (work / folder).chmod(mode)
    before = sorted(work.rglob("*"))
    done = idxtrain("run", "--data", data, "--work", work, "--run-id", "r")
    open_one = (work / folder).resolve()
    require_refusal(done, f"{open_one}: found mode {mode:04o}, writable by everyone", f"; fix: chmod -R o-w {open_one}")
    assert sorted(work.rglob("*")) == before


def test_everybody_may_write_the_parent_of_the_work_directory(idxtrain: Idxtrain, tmp_path: Path, data: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch").chmod(0o1777)
    done = idxtrain("fetch", "--data", data, "--work", tmp_path / "scratch/work", "--run-id", "r")
    assert done.returncode == 0, done.stderr


def test_with_umask_zero_no_folder_is_made_that_a_later_run_refuses(
    idxtrain: Idxtrain, tmp_path: Path, prepared: RunDir, data: Path
) -> None:
    for folder in (prepared.work.datasets, prepared.work.locks):
        shutil.rmtree(folder)
    work, umask = tmp_path / "deep/work", os.umask(0)
    try:
        for _ in range(2):
            done = idxtrain("fetch", "--data", data, "--work", work, "--run-id", "r")
            assert done.returncode == 0, done.stderr
        assert idxtrain("prepare", "--work", prepared.work.path, "--run-id", "r").returncode == 0
    finally:
        os.umask(umask)
    for folder in (work, work / "runs", prepared.work.datasets, prepared.work.locks):
        assert folder.stat().st_mode & 0o777 == 0o775
    assert (work / "runs/r").stat().st_mode & 0o777 == 0o700


def test_a_run_removes_old_temporary_files_of_killed_processes_from_its_folder(
    idxtrain: Idxtrain, prepared: RunDir
) -> None:
    old, new = (prepared.path / "stages" / f".0a1b2c3{digit}.tmp-train.json" for digit in "de")
    for path in (old, new):
        path.touch()
    os.utime(old, (1, 1))
    assert idxtrain("prepare", "--work", prepared.work.path, "--run-id", "r").returncode == 0
    assert (old.exists(), new.exists()) == (False, True)  # a process may be writing the new one


PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2


def drop_root_rights() -> None:
    """Drop root's right to read and write everything, from the next program on; other users have no such right."""
    libc = ctypes.CDLL(None)
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


@pytest.fixture
def as_ordinary_user(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*args: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pipelines.cli", *map(str, args)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, preexec_fn=drop_root_rights)

    return run


@pytest.mark.parametrize(
    ("folder", "mode", "words"),
    [
        ("work", 0o000, "--work {}: cannot be read ("),
        ("work/runs", 0o000, "--work {}/work: cannot be read ("),
        ("work/runs/r", 0o000, "--work {}/work: cannot be read ("),
        (
            "work",
            0o500,
            "{}: found mode 0500, which does not let you read and write, expected 0700 or more; fix: chmod u+",
        ),
        ("work/runs", 0o500, "{}: found mode 0500"),
        ("work/runs/r", 0o500, "{}: found mode 0500"),
        ("work/datasets", 0o300, "{}: found mode 0300"),
    ],
)
def test_a_work_directory_without_permission_is_refused(
    as_ordinary_user: Callable[..., subprocess.CompletedProcess[str]],
    prepared: RunDir,
    tmp_path: Path,
    folder: str,
    mode: int,
    words: str,
) -> None:
    closed = tmp_path / folder
    closed.chmod(mode)
    try:
        done = as_ordinary_user("train", "--work", tmp_path / "work", "--run-id", "r")
    finally:
        closed.chmod(0o700)
    require_refusal(done, words.format(tmp_path if words.startswith("--work {}/") else closed))


@pytest.mark.parametrize("command", ["report", "stragglers", "evaluate", "status"])
def test_without_a_run_id_unreadable_runs_are_skipped(
    as_ordinary_user: Callable[..., subprocess.CompletedProcess[str]], prepared: RunDir, command: str
) -> None:
    closed = prepared.work.runs / "another-users"
    shutil.copytree(prepared.path, closed)
    closed.chmod(0)
    try:
        done = as_ordinary_user(command, "--work", prepared.work.path)
    finally:
        closed.chmod(0o700)
    words = {
        "report": "found no evaluated run",
        "stragglers": "found no run that trained",
        "evaluate": "run r: is not trained",
    }
    if command == "status":
        assert done.stdout.startswith("run r\n")
    else:
        require_refusal(done, words[command])


@pytest.mark.parametrize("part", ["", "manifest.json", "train", "train/part-00001.parquet"])
def test_a_dataset_without_permission_is_refused(
    as_ordinary_user: Callable[..., subprocess.CompletedProcess[str]], prepared: RunDir, part: str
) -> None:
    closed = dataset_of(prepared) / part
    mode = closed.stat().st_mode
    closed.chmod(0)
    try:
        done = as_ordinary_user("train", "--work", prepared.work.path, "--run-id", "r")
    finally:
        closed.chmod(mode)
    require_refusal(done, str(closed), "Permission denied")


@pytest.mark.parametrize("mode", [0o000, 0o400, 0o100])
def test_a_data_folder_without_permission_is_refused(
    as_ordinary_user: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, data: Path, mode: int
) -> None:
    closed = tmp_path / "data"
    shutil.copytree(data, closed)
    closed.chmod(mode)
    try:
        done = as_ordinary_user("run", "--data", closed, "--work", tmp_path / "work")
    finally:
        closed.chmod(0o700)
    require_refusal(done, f"{closed}: cannot be read (Permission denied); fix: give a folder you may read as --data")


@pytest.mark.parametrize(
    ("name", "found"), [("a\nb", r"'\n'"), ("a\x1b[1mb", r"'\x1b'"), ("a\\b", r"'\\'"), ("a\udcffb", r"'\udcff'")]
)
def test_a_work_directory_whose_path_some_tool_cannot_hold_is_refused_at_once(
    idxtrain: Idxtrain, tmp_path: Path, name: str, found: str
) -> None:
    done = idxtrain("run", "--work", tmp_path / name)
    assert done.stderr.startswith(f"idxtrain: --work {tmp_path}/a")
    assert (
        f": found {found} in its path, expected UTF-8 without backslashes or control characters; fix: " in done.stderr
    )
    assert done.stderr.count("\n") == 1
    assert done.returncode == 2
    assert not list(tmp_path.iterdir())


def test_a_work_directory_that_is_a_file_is_refused(idxtrain: Idxtrain, tmp_path: Path, data: Path) -> None:
    (tmp_path / "work").touch()
    done = idxtrain("run", "--data", data, "--work", tmp_path / "work")
    require_refusal(done, f"{tmp_path / 'work'}: found a file, expected a folder; fix: give another --work")


# --- the model registry


@pytest.mark.parametrize("command", [("list",), ("show", "1"), ("promote", "1"), ("rollback",), ("sync",)])
@pytest.mark.parametrize("name", ["../../../..escaped", "a'b", "", ".hidden", "ü", "x" * 101])
def test_an_invalid_model_name_is_refused_before_anything_is_made(
    command: tuple[str, ...], name: str, tmp_path: Path
) -> None:
    (tmp_path / "work/mlflow").mkdir(parents=True)
    done = CliRunner().invoke(app.app, ["models", *command, "--name", name, "--work", str(tmp_path / "work")])
    assert done.exit_code == 2
    assert "expected letters, digits" in done.stderr
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["work", "work/mlflow"]


@pytest.mark.parametrize("command", [("list",), ("promote", "1"), ("rollback",), ("sync",)])
@pytest.mark.parametrize("is_there", [False, True])
def test_no_registry_is_made_in_a_mistyped_work_directory(
    command: tuple[str, ...], is_there: bool, tmp_path: Path
) -> None:
    work = tmp_path / "typo"
    if is_there:
        work.mkdir()
    done = CliRunner().invoke(app.app, ["models", *command, "--work", str(work)])
    assert done.exit_code == 2
    assert ("found no model registry" if is_there else "found no such folder") in done.stderr
    assert list(tmp_path.rglob("*")) == [work] * is_there
