"""A run gives the same result wherever it starts: foreign modules, variables and settings do not reach it."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from zipfile import ZipFile

import h5py
import pytest

from jobs.run_dir import RunDir
from jobs.stage import read_record
from tests.conftest import MakeArchives

pytestmark = pytest.mark.long

PROGRAM = str(Path(sys.executable).with_name("idxtrain"))
# Deterministic: the same bits on one rank and on two. `fast` has convolutions, so the channel order matters.
SETTINGS = ("train.deterministic=true", "train.slices=2", "train.epochs=1", "train.batch_size=32")
NOT_OURS = "open({log!r}, 'a').write(__file__ + '\\n')\nraise SystemExit('not ours: ' + __file__)\n"


def result_of(run: RunDir, stdout: str) -> tuple[str, str, str]:
    """Return what must not change: dataset ID, hash of all weights, and the printed result."""
    digest = hashlib.sha256()

    def add(name: str, node: object) -> None:
        if isinstance(node, h5py.Dataset):
            digest.update(name.encode() + node[()].tobytes())

    with ZipFile(run.model_file) as archive, archive.open("model.weights.h5") as weights, h5py.File(weights) as tree:
        tree.visititems(add)
    return read_record(run, "prepare").outputs["dataset_id"], digest.hexdigest(), stdout


def run(
    folder: Path, data: Path, ranks: int, environment: Mapping[str, str], umask: str = "022", streams: str = ""
) -> tuple[str, str, str]:
    work = folder / "work"
    options = [word for setting in SETTINGS for word in ("--set", setting)]
    words = ["run" if ranks == 1 else "train", "--data", data, "--work", work, "--run-id", "r", "--np", ranks, *options]
    command = ["bash", "-c", f'umask {umask}; exec "$0" "$@" {streams}', PROGRAM, *map(str, words)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    made = RunDir(work / "runs" / "r")
    logs = "".join(path.read_text(errors="replace") for path in made.logs.glob("*.log"))
    assert done.returncode == 0, done.stderr + logs
    assert {path.name for path in made.logs.glob("*.log")} >= {"fetch.log", "prepare.log", "train.log"}
    return result_of(made, done.stdout)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_archives: MakeArchives) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_archives(folder, (8, 8), 3, train=240, test=60)
    return folder


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory, data: Path) -> tuple[str, str, str]:
    return run(tmp_path_factory.mktemp("clean"), data, 1, os.environ)


def foreign(folder: Path, log: Path) -> Path:
    """Make a folder of modules with the names of ours and of Python's own; each records its import in `log`."""
    for name in ("models.py", "random.py", "numpy.py", "jobs/__init__.py", "deploy/__init__.py"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(NOT_OURS.format(log=str(log)), encoding="utf-8")
    return folder


def keras_home(folder: Path) -> Path:
    folder.mkdir()
    settings = {"image_data_format": "channels_first", "floatx": "float64", "epsilon": 0.5, "backend": "torch"}
    (folder / "keras.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("ranks", "umask", "streams"), [(1, "000", ""), (2, "077", "<&- 2>&-")], ids=["one rank", "two ranks"]
)
def test_foreign_modules_variables_and_settings_do_not_change_a_run(
    ranks: int, umask: str, streams: str, tmp_path: Path, data: Path, clean: tuple[str, str, str]
) -> None:
    log = tmp_path / "imported"
    here, path = foreign(tmp_path / "here", log), foreign(tmp_path / "path", log)
    home = tmp_path / "home"
    home.mkdir()
    settings = keras_home(home / ".keras")  # used where KERAS_HOME is not set
    environment = {
        **os.environ,
        "HOME": str(home),
        "PYTHONPATH": str(path),
        "SPARK_HOME": "/opt/spark",
        "SPARK_CONF_DIR": "/opt/spark/conf",
        "SPARK_LOCAL_DIRS": "/opt/spark/scratch",
        "PYSPARK_SUBMIT_ARGS": "--master yarn",
        "PYSPARK_PYTHON": "/usr/bin/false",
        "PYSPARK_DRIVER_PYTHON": "/usr/bin/false",
        "HOROVOD_RANK": "1",
        "HOROVOD_SIZE": "4",
        "HOROVOD_GLOO_IFACE": "nowhere0",
        "PMIX_RANK": "3",
        "OMPI_COMM_WORLD_RANK": "3",
        "KERAS_BACKEND": "torch",
        "KERAS_MAX_EPOCHS": "0",
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_PERTURB_": "165",
    }
    if ranks == 1:
        environment["KERAS_HOME"] = str(settings.rename(tmp_path / "keras"))
    dataset, weights, stdout = run(here, data, ranks, environment, umask, streams)
    assert (dataset, weights) == clean[:2]
    assert stdout == (clean[2] if ranks == 1 else "")  # the training alone prints no result
    assert not log.exists()
