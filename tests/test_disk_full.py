"""A disk that is really full: one line, no file that only looks complete, and the same command resumes later."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from errno import EDQUOT, ENOSPC
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from jobs.archive import ROLES, Archive, Role
from jobs.dataset import SPLITS, Normalization, read_manifest, verify
from jobs.errors import InputError
from jobs.files import sha256_file, write_atomic
from jobs.prepare import idx
from jobs.prepare.archives import Pair, inflate
from jobs.prepare.config import PrepareConfig
from jobs.prepare.decode import Decoder
from jobs.prepare.disk_space import parquet_bytes
from jobs.prepare.labels import ClassMap
from jobs.prepare.plan import plan_dataset
from jobs.prepare.row_files import RowFiles
from jobs.prepare.stage import prepare
from jobs.run_dir import RunDir, Work
from jobs.stage import read_record
from jobs.train.checkpoint import Checkpoint, Position, latest, save
from pipelines.lock import RunLock
from tests.conftest import Idxtrain, MakeArchives, as_stored, idxtrain_in
from tests.support.hooked import python_with
from tests.support.pictures import put_pictures
from tests.support.prepared import NO_SPARK, Archives

Filling = Callable[[Sequence[object], str, int], subprocess.CompletedProcess[str]]

BALLAST = "ballast"
TRAINING = (
    "--set", "train.model=softmax", "--set", "train.epochs=4", "--set", "train.batch_size=16",
    "--set", "train.keep_checkpoints=2", "--set", "train.checkpoint_min_seconds=0",
)  # fmt: skip

# Python runs this before a program. In each process of the pipeline it fills the disk, except for N bytes, just before
# a certain file is written.
FILL = """
import os
from contextlib import suppress
from pathlib import Path
from jobs import files

disk, name, room = Path(os.environ["FILL_DISK"]), os.environ["FILL_AT"], int(os.environ["FILL_ROOM"])
write_atomic = files.write_atomic


def fill():
    status = os.statvfs(disk)
    with (disk / "ballast").open("wb", buffering=0) as ballast, suppress(OSError):
        for _ in range(status.f_bavail - room // status.f_frsize):
            ballast.write(bytes(status.f_frsize))


def filling(path, write):
    if path.name == name and not (disk / "ballast").exists():
        fill()
    write_atomic(path, write)


files.write_atomic = filling
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a small disk; return its folder."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True)
        problem = mounted.stderr.strip()
    except OSError as error:
        problem = str(error)
    if problem:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"needs a small disk: {problem}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def filling(tmp_path: Path, disk: Path) -> Filling:
    """Return a command line that fills the disk, except for `room` bytes, just before that file is written."""
    run = idxtrain_in(tmp_path, (python_with(tmp_path / "hook", FILL), "-m", "pipelines.cli"))

    def fill_up(command: Sequence[object], name: str, room: int) -> subprocess.CompletedProcess[str]:
        settings = {"FILL_DISK": str(disk), "FILL_AT": name, "FILL_ROOM": str(room)}
        return run(*command, env={**os.environ, **settings})

    return fill_up


def require_one_line(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Check that a command failed for lack of disk space, in one line."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert "Error" not in done.stderr.replace("OSError: [Errno 28] ", "")
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("idxtrain: ")]
    assert "No space left on device" in line
    for word in words:
        assert word in line
    assert done.stdout == ""


# --- refused before anything is written


def test_too_little_disk_space_is_refused_before_spark_starts(tmp_path: Path) -> None:
    archives: Archives = {role: promise(role, tmp_path / role) for role in ROLES}
    work = Work(tmp_path / "work")
    with pytest.raises(InputError) as caught:
        prepare(PrepareConfig(), NO_SPARK, archives, work)
    expected = r"found [\d,.]+ MB free on the disk, expected 19,\d\d\d,\d\d\d\.\d MB for the inflated archives and"
    assert re.match(rf"{work.datasets}: {expected}", str(caught.value))
    assert list(work.datasets.iterdir()) == []


def promise(role: Role, path: Path) -> Archive:
    """Return a plain archive that is a sparse file: 9 TB of images that take no disk space."""
    shape = (1 << 17, 1 << 13, 1 << 13) if role.endswith("images") else (1 << 17,)
    header = b"\0\0\x08" + bytes([len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
    path.write_bytes(header)
    os.truncate(path, len(header) + prod(shape))
    return Archive(role=role, path=path, bytes=path.stat().st_size, sha256="0" * 64)


@pytest.mark.parametrize("rows_per_shard", [1, 100, 2500])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float64"])
def test_no_dataset_exceeds_its_estimated_size(tmp_path: Path, dtype: str, rows_per_shard: int) -> None:
    random, rows = np.random.default_rng(0), min(20 * rows_per_shard, 2500)
    noise = as_stored(random.random((rows, 16, 16)), np.dtype(dtype))  # nothing is harder to compress
    pair = put_pair(tmp_path, noise, random.integers(0, 10, rows, np.uint8))
    plan = plan_dataset(PrepareConfig(rows_per_shard=rows_per_shard, validation_rows=0), rows, 1, (16, 16))
    (tmp_path / "train").mkdir()
    rule = Normalization(rule="train-range", offset=noise.min(), scale=1 / (float(noise.max()) - float(noise.min())))
    train = [shard for shard in plan.shards if shard.split == "train"]
    files = RowFiles(tmp_path)
    with files.writing("train") as writer:
        writer.add("train", np.arange(rows))
    decoder = Decoder(rows=files, train=pair, test=pair, classes=ClassMap(np.arange(10), 10))
    taken = sum(decoder.write(rule, tmp_path, shard).shard.bytes for shard in train)
    assert taken <= parquet_bytes(plan, pair.image_header) <= 4 * taken + 100_000


def put_pair(folder: Path, images: NDArray[Any], labels: NDArray[Any]) -> Pair:
    one, other = folder / "images", folder / "labels"
    idx.write(one, images)
    idx.write(other, labels)
    return Pair(
        images=one,
        labels=other,
        image_header=idx.read_header(one),
        label_header=idx.read_header(other),
        image_archive=one,
        label_archive=other,
    )


# --- full during the work


def fill(disk: Path, room: int) -> None:
    with (disk / BALLAST).open("wb") as ballast:
        os.posix_fallocate(ballast.fileno(), 0, shutil.disk_usage(disk).free - room)


@pytest.mark.parametrize(("role", "room"), [("train_images", 0), ("train_images", 65536), ("test_labels", 0)], ids=str)
def test_a_disk_that_fills_up_while_inflating_is_reported(
    make_archives: MakeArchives, disk: Path, role: Role, room: int
) -> None:
    archives = make_archives(disk.parent / "data")
    fill(disk, room)
    with pytest.raises(OSError, match=rf"^\[Errno 28\] No space left on device: '{disk}/{role}'$"):
        inflate({role: archives[role]}, disk)
    assert [path.name for path in disk.iterdir()] == [BALLAST]


@pytest.mark.long
def test_prepare_succeeds_after_a_disk_filled_up_while_spark_wrote(
    idxtrain: Idxtrain, make_archives: MakeArchives, disk: Path, filling: Filling
) -> None:
    make_archives(disk.parent / "data")
    work = Work(disk / "work")
    command = ("prepare", "--data", disk.parent / "data", "--work", work.path, "--run-id", "r",
               "--set", "prepare.rows_per_shard=100")  # fmt: skip
    done = filling(command, "part-00003.parquet", 8192)
    require_one_line(done, "/train/part-0000")  # the third, or one that a concurrent task was writing
    assert list(work.datasets.iterdir()) == []
    assert not RunDir(work.runs / "r").record_file("prepare").exists()
    (disk / BALLAST).unlink()
    done = idxtrain(*command)
    assert done.returncode == 0, done.stderr
    (directory,) = work.datasets.iterdir()
    verify(directory, read_manifest(directory), *SPLITS)


@pytest.mark.long
def test_training_resumes_after_a_disk_filled_up(
    idxtrain: Idxtrain, make_archives: MakeArchives, disk: Path, filling: Filling
) -> None:
    make_archives(disk.parent / "data", (8, 8), 2, train=130, test=20)
    run = RunDir(disk / "work/runs/r")
    command = ("train", "--data", disk.parent / "data", "--work", disk / "work", "--run-id", "r", *TRAINING)
    for name, room in (("step-00000016.safetensors", 0), ("model.keras", 8192)):
        done = filling(command, name, room)
        require_one_line(done, name, f"fix: free some space, then `idxtrain run --run-id {run.selector}` resumes it")
        assert unfinished(run.path) == []
        assert not run.record_file("train").exists()
        assert not run.model_file.exists()
        (disk / BALLAST).unlink()
    assert "resuming from step 8 of 32" in done.stderr  # not from one that was not written
    done = idxtrain(*command)
    assert done.returncode == 0, done.stderr
    assert "resuming from step 32 of 32" in done.stderr
    assert read_record(run, "train").outputs["model_sha256"] == sha256_file(run.model_file)


def unfinished(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("*") if ".tmp-" in path.name]


def test_a_disk_that_is_full_when_the_lock_is_taken_is_reported(disk: Path) -> None:
    fill(disk, 0)
    with (
        pytest.raises(OSError, match=rf"^\[Errno 28\] No space left on device: '{disk}/lock.json'$"),
        RunLock(RunDir(disk)),
    ):
        pass
    assert [path.name for path in disk.iterdir()] == [BALLAST]


def test_a_checkpoint_without_its_checksum_is_ignored_and_replaces_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def state(step: int) -> Checkpoint:
        return Checkpoint(position=Position(step, "key"), arrays={"weight.0": np.full(3, step)})

    def full(path: Path, value: object) -> None:
        raise OSError(ENOSPC, "No space left on device", str(path))

    save(tmp_path, state(1), keep=1)
    with monkeypatch.context() as patch:
        patch.setattr("jobs.train.checkpoint.write_json", full)
        with pytest.raises(OSError, match=r"step-00000009\.json"):
            save(tmp_path, state(9), keep=1)
    newest = latest(tmp_path, "key")
    assert newest is not None
    assert newest.position.step == 1
    save(tmp_path, state(4), keep=1)  # this time the training saves another step
    assert {path.stem for path in tmp_path.iterdir()} == {"step-00000004"}


@pytest.mark.parametrize("number", [ENOSPC, EDQUOT])
def test_a_full_disk_is_reported_whatever_a_library_raises(tmp_path: Path, number: int) -> None:
    def write(path: Path) -> None:
        path.write_bytes(b"half")
        try:
            raise ValueError(f"io: {os.strerror(number)} (os error {number})")
        except ValueError as error:
            raise RuntimeError("cannot serialize") from error

    with pytest.raises(OSError, match=rf"^\[Errno {number}\] .*: '{tmp_path}/x'$"):
        write_atomic(tmp_path / "x", write)
    assert list(tmp_path.iterdir()) == []


# --- read-only


@pytest.mark.parametrize("work", ["", "work", "new"])
def test_a_read_only_disk_is_reported_as_such(
    idxtrain: Idxtrain, tmp_path: Path, disk: Path, make_archives: MakeArchives, work: str
) -> None:
    make_archives(tmp_path / "data", (4, 4), 2, train=20, test=4)
    (disk / "work").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    done = idxtrain("fetch", "--data", tmp_path / "data", "--work", disk / work, "--run-id", "r")
    assert done.returncode == 2
    made = f"{disk / work}: found a disk mounted read-only, expected a writable one; fix: give another --work"
    not_made = f"--work {disk / work}: cannot be made (Read-only file system); fix: give a folder you may write"
    assert done.stderr == f"idxtrain: {not_made if work == 'new' else made}\n"


def test_an_empty_volume_is_refused_as_a_target_before_anything_is_converted(
    disk: Path, tmp_path: Path, idxtrain: Idxtrain
) -> None:
    done = idxtrain("convert", put_pictures(tmp_path / "source", 1), disk)
    assert done.returncode == 2
    problem = f"{disk}: found a mount point, expected another folder; fix: give {disk / 'data'}"
    assert done.stderr == f"idxtrain: {problem}\n"
