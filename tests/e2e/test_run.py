"""`idxtrain run` on small data sets whose shapes and numbers of classes appear nowhere in the code."""

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ODD_FOLDER, Idxtrain, MakeArchives
from tests.support.open_files import allowed

RESULT = re.compile(r"test accuracy (0\.\d{4}|1\.0000) \((\d+) errors in (\d+)\)")
FAST = ("--set", "train.batch_size=32", "--set", "train.epochs=3", "--set", "train.learning_rate=0.003")


def metrics_of(work: Path, run_id: str) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((work / f"runs/{run_id}/metrics.json").read_text())
    return metrics


@pytest.mark.parametrize(
    ("shape", "classes", "train", "test", "ranks", "umask", "forbidden"),
    [((50, 50), 16, 960, 160, 1, 0, 0o002), ((12, 20), 3, 601, 101, 2, 0o077, 0o077)],
)
def test_a_run_works_for_any_shape_classes_umask_and_folder_name(
    idxtrain: Idxtrain,
    make_archives: MakeArchives,
    tmp_path: Path,
    shape: tuple[int, int],
    classes: int,
    train: int,
    test: int,
    ranks: int,
    umask: int,
    forbidden: int,
    with_umask: Callable[[int], None],
) -> None:
    folder = tmp_path / ODD_FOLDER
    make_archives(folder / "data", shape, classes, train=train, test=test)
    with_umask(umask)
    work = folder / "work"
    options = ("--data", folder / "data", "--work", work, "--run-id", "one", "--np", ranks, *FAST)
    done = idxtrain("run", *options)
    assert done.returncode == 0, done.stderr
    match = RESULT.fullmatch(done.stdout.splitlines()[-1])
    assert match
    metrics = metrics_of(work, "one")
    assert metrics["test"]["count"] == test == int(match[3])
    assert metrics["test"]["errors"] == int(match[2])
    assert metrics["test"]["accuracy"] > 0.95  # a classifier that learned nothing has 1 / classes
    assert len(metrics["test"]["confusion"]) == classes
    assert metrics["world_size"] == ranks
    assert metrics["train"]["images"] == 3 * (train - train // 12)
    assert metrics["seconds"].keys() == {"fetch", "prepare", "train", "evaluate", "total"}
    assert metrics["run_id"] == "one"
    assert metrics["recipe"] == "fast"
    assert (work / "runs/one/report.html").stat().st_size > 1000

    again = idxtrain("run", *options)
    assert again.returncode == 0, again.stderr
    assert again.stdout == done.stdout
    assert again.stderr.count("already done, skipped") == 4

    evaluated = idxtrain("evaluate", "--work", work)
    assert evaluated.stdout == done.stdout
    assert allowed(work, forbidden) == []
    # Spark once split the path at its comma and made a folder of each part, one of them in the current folder.
    assert [path.name for path in (*tmp_path.iterdir(), *folder.parent.iterdir())] == ["my data", "a,b#c"]


def break_magic(plain: bytes) -> bytes:
    return b"\x01" + plain[1:]


def break_type(plain: bytes) -> bytes:
    return plain[:2] + b"\x0a" + plain[3:]


def break_count(plain: bytes) -> bytes:
    return plain[:4] + b"\xff\xff\xff\xff" + plain[8:]


def fewer_rows(plain: bytes) -> bytes:
    return plain[:4] + (59).to_bytes(4, "big") + plain[8 : 8 + 8 + 59 * 48]


BROKEN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "wrong magic": (lambda plain: gzip.compress(break_magic(plain)), "byte 0"),
    "unknown type": (lambda plain: gzip.compress(break_type(plain)), "byte 2"),
    "truncated": (lambda plain: gzip.compress(plain[:-1]), "bytes"),
    "trailing bytes": (lambda plain: gzip.compress(plain + b"x"), "bytes"),
    "corrupt gzip": (lambda plain: gzip.compress(plain)[:-6] + b"\0" * 6, "gzip"),
    "size beyond the end of the file": (lambda plain: gzip.compress(break_count(plain)), "4294967295"),
    "gzip bomb": (lambda plain: gzip.compress(plain + bytes(50 << 20)), "bytes"),
    "another number of labels": (lambda plain: gzip.compress(fewer_rows(plain)), "train-labels"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_bad_archive_is_refused_and_leaves_no_dataset(
    idxtrain: Idxtrain, make_archives: MakeArchives, tmp_path: Path, kind: str
) -> None:
    data, work = tmp_path / "data", tmp_path / "work"
    make_archives(data, (6, 8), 3, train=60, test=12, gz=False)
    plain = (data / "train-images-idx3-ubyte").read_bytes()
    (data / "train-images-idx3-ubyte").unlink()
    broken, named = BROKEN[kind]
    (data / "train-images-idx3-ubyte.gz").write_bytes(broken(plain))
    done = idxtrain("run", "--data", data, "--work", work)
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("idxtrain:")]
    assert len(errors) == 1
    assert "train-images-idx3-ubyte.gz" in errors[0]
    assert named in errors[0]
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    datasets = work / "datasets"
    assert not datasets.exists() or not list(datasets.iterdir())
