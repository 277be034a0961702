"""Kill -9 while models are retrained, promoted and rolled back, beside a reader that keeps loading the champion."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from deploy.registry.registry import Registry
from deploy.registry.tracking import tracking_uri
from jobs import segments
from jobs.run_dir import RunDir, Work
from jobs.stage import dataset_of
from pipelines.retraining.records import Champion, Pending, Promotion
from pipelines.retraining.retrain_dir import RetrainDir

# Serving code that does not know this project: it asks for the alias, and every 20 times loads the model and predicts.
_READ = """
import json, os, sys
import mlflow, numpy
stdout, sys.stdout = sys.stdout, open(os.devnull, "w")  # Keras draws progress bars
uri, name, shape, stop = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), sys.argv[4]
mlflow.set_tracking_uri(uri)
client = mlflow.MlflowClient()
image = numpy.zeros((1, *shape), numpy.float32)
while not os.path.exists(stop):
    try:
        versions = {client.get_model_version_by_alias(name, "champion").version for _ in range(20)}
        out = mlflow.pyfunc.load_model(f"models:/{name}@champion").predict(image)
        assert abs(numpy.asarray(out).sum() - 1) < 1e-4
        print("read", *sorted(versions), file=stdout, flush=True)
    except Exception as error:
        print("failed", repr(error).replace(chr(10), " "), file=stdout, flush=True)
"""


@contextmanager
def reader(work: Work, name: str, shape: Sequence[int], log: Path) -> Iterator[None]:
    """Keep reading the champion; enter after the first read. `log` gets a line for each."""
    stop = log.with_suffix(".stop")
    command = [sys.executable, "-c", _READ, tracking_uri(work, {}), name, json.dumps(list(shape)), str(stop)]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL, env=environment)
    try:
        wait_until(lambda: log.stat().st_size > 0 or process.poll() is not None)
        assert process.poll() is None
        yield
    finally:
        stop.touch()
        process.wait(60)


def wait_until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def kill_at(command: Sequence[str], seconds: float, after: Path | None = None) -> str:
    """Start a command and kill -9 it after `seconds`, counted from the appearance of the file `after`, if given.

    Return "killed", or "done" if it was faster.
    """
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while after is not None and not after.exists() and process.poll() is None:
        time.sleep(0.0005)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
    _, stderr = process.communicate()
    assert process.returncode in (0, -9), stderr
    return "killed" if process.returncode else "done"


def idxtrain(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "pipelines.cli", *map(str, arguments)]


def run(*arguments: object) -> str:
    done = subprocess.run(idxtrain(*arguments), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def moments(count: int, longest: float, seed: int) -> list[float]:
    """Return `count` random moments, in seconds from 0 to `longest`."""
    picked = random.Random(seed)  # noqa: S311 (no secret)
    return [picked.uniform(0, longest) for _ in range(count)]


def age(work: Work, seconds: float = 7200) -> None:
    """Date temporary files back by `seconds`: prune recognizes leftovers by their age."""
    for path in work.path.rglob("*"):
        if path.name.startswith(".") or path.parent == work.scratch:
            status = path.lstat()
            os.utime(path, (status.st_atime - seconds, status.st_mtime - seconds), follow_symlinks=False)


def orphans(work: Work, name: str) -> list[str]:
    """Return what belongs to nothing: temporary files, data without a run, registrations without a version."""
    names = [str(path) for path in work.path.rglob(".*") if path.name not in (".locks", ".removed", ".scratch")]
    names = [path for path in names if not path.endswith(".retrain.log.json")]
    names += [str(path) for folder in (work.bin, work.scratch) if folder.exists() for path in folder.iterdir()]
    used = set()
    for run_dir in (RunDir(folder) for folder in (work.runs.iterdir() if work.runs.exists() else [])):
        if not run_dir.config_file.exists():
            names.append(str(run_dir.path))
        if run_dir.record_file("prepare").exists():
            used.add(dataset_of(run_dir))
    datasets = set(work.datasets.iterdir()) if work.datasets.exists() else set()
    names += [str(path) for path in datasets - used]
    known = set().union(*(segments.segment_ids(dataset) for dataset in datasets))
    names += [
        str(path) for path in (work.segments.iterdir() if work.segments.exists() else []) if path.name not in known
    ]
    registry = Registry(work, name, {})
    names += registry.orphans()
    folders = list((work.registry / "artifacts" / name).iterdir())
    names += [f"{len(folders)} artifact folders"] if len(folders) != len(registry.versions()) else []
    return names


def aliases(work: Work, name: str) -> dict[str, int]:
    return {alias: version.number for version in Registry(work, name, {}).versions() for alias in version.aliases}


def assert_settled(work: Work, name: str) -> None:
    """Assert that nothing is under way, and that champion and previous are two versions."""
    retrain_dir = RetrainDir(work, name)
    assert retrain_dir.read(Promotion) is None
    assert retrain_dir.read(Pending) is None
    versions = aliases(work, name)
    assert versions["champion"] != versions["previous"]
    champion = retrain_dir.read(Champion)
    assert champion is not None
    assert champion.version == versions["champion"]
