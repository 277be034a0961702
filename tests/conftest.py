"""Fixtures shared by several test files: small learnable archives, their datasets, MNIST, the command line, Slurm."""

import functools
import gzip
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from math import tau
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from numpy.typing import NDArray

from jobs.archive import ROLES, Archive, Role
from jobs.fetch.catalog import CATALOG
from jobs.fetch.offline import DATASET, OfflinePackage
from jobs.files import sha256_file
from jobs.prepare import idx
from jobs.run_dir import Work
from jobs.stage import dataset_of
from tests.support.prepared import VARIANTS, Archives, Made, new_run, start
from tests.support.slurm_cluster import SlurmCluster, missing

# nohup ignores SIGHUP, and a script's background jobs ignore SIGINT. Child processes inherit ignored signals, but not
# handlers: with a handler here, the programs that tests start receive these signals as usual.
for _number in (signal.SIGHUP, signal.SIGINT):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, lambda number, frame: None)

NAMES: dict[Role, str] = {
    "train_images": "train-images-idx{}-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx{}-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}

# Every character that URLs, globs, shells, lists or SQL treat specially, except the slash.
ODD_FOLDER = "my data/ü (2)/a,b#c"


@pytest.fixture(autouse=True)
def free_operations() -> Iterator[None]:
    """Let TensorFlow choose its operations again after a test that loaded a model to predict with.

    Predictions are deterministic, for the whole process and for good; a training in a later test would then be refused
    to read its clock.
    """
    yield
    if config := sys.modules.get("tensorflow.python.framework.config"):
        config.disable_op_determinism()


class MakeArchives(Protocol):
    """Writes the four archives of a small, learnable data set into a folder."""

    def __call__(
        self,
        folder: Path,
        shape: tuple[int, ...] = (12, 20),
        classes: int = 3,
        train: int = 600,
        test: int = 100,
        dtype: str = "uint8",
        gz: bool = True,
        seed: int = 0,
    ) -> dict[str, Archive]:
        """Return the archives. `shape`: of an image. `gz`: compressed or not. Equal arguments give equal bytes."""
        ...


class Idxtrain(Protocol):
    """Runs `idxtrain` as a user does."""

    def __call__(
        self, *args: object, env: Mapping[str, str] | None = None, timeout: float = 600
    ) -> subprocess.CompletedProcess[str]:
        """Return the finished process, with stdout and stderr as text. `env` replaces the environment."""
        ...


def learnable(
    rows: int, shape: tuple[int, ...], classes: int, random: np.random.Generator
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return images float64 [rows, *shape] in [0, 1) and labels uint8 [rows], every class equally often (± 1).

    Each class has a blob at its own point of an ellipse, shifted slightly from image to image, plus noise.
    """
    labels = random.permutation(np.arange(rows) % classes).astype(np.uint8)
    angle = tau * labels / classes
    centres = 0.5 + 0.3 * np.stack([np.sin(angle), np.cos(angle)]) + random.uniform(-0.05, 0.05, (2, rows))
    down, along = (
        np.exp(-((np.arange(size) / size - centre[:, None]) ** 2) / 0.03)
        for size, centre in zip(shape[:2], centres, strict=True)
    )
    channels = np.linspace(1.0, 0.5, shape[2] if len(shape) == 3 else 1)
    blobs = down[:, :, None, None] * along[:, None, :, None] * channels
    return (0.75 * blobs + random.uniform(0, 0.25, blobs.shape)).reshape(rows, *shape), labels


def as_stored(images: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return values in [0, 1] as an archive of that type holds them: integers use their full range, floats −1 to 1."""
    if dtype.kind == "f":
        return (2 * images - 1).astype(dtype)
    limits = np.iinfo(dtype)
    return (limits.min + images * (int(limits.max) - int(limits.min))).astype(dtype)


@pytest.fixture(scope="session")
def make_archives() -> MakeArchives:
    def make(
        folder: Path,
        shape: tuple[int, ...] = (12, 20),
        classes: int = 3,
        train: int = 600,
        test: int = 100,
        dtype: str = "uint8",
        gz: bool = True,
        seed: int = 0,
    ) -> dict[str, Archive]:
        folder.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(seed)
        train_images, train_labels = learnable(train, shape, classes, random)
        test_images, test_labels = learnable(test, shape, classes, random)
        as_type = partial(as_stored, dtype=np.dtype(dtype))
        arrays = (as_type(train_images), train_labels, as_type(test_images), test_labels)
        return {role: put_archive(folder, role, array, gz) for role, array in zip(ROLES, arrays, strict=True)}

    return make


def put_archive(folder: Path, role: Role, array: NDArray[Any], gz: bool = False) -> Archive:
    """Write one archive under its usual name, replacing any that exists."""
    path = folder / (NAMES[role].format(array.ndim) + ".gz" * gz)
    idx.write(path, array)
    return describe(role, path)


def describe(role: Role, path: Path) -> Archive:
    """Return the description of a file that `fetch` passes to `prepare`."""
    return Archive(role=role, path=path, bytes=path.stat().st_size, sha256=sha256_file(path))


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, make_archives: MakeArchives) -> Callable[[str], Made]:
    """Return a function that returns the dataset of a variant. Each is prepared once a session."""

    @functools.cache
    def make(variant: str) -> Made:
        how, config = VARIANTS[variant]
        root = tmp_path_factory.mktemp(variant)
        archives, work = make_archives(root / "archives", **how), Work(root / "work")
        if variant == "int16":
            add_oddities(archives)
        run = new_run(work.path, archives, config)
        with start(run) as process:
            _, log = process.communicate()
        assert process.returncode == 0, log
        return Made(config=config, archives=archives, work=work, directory=dataset_of(run), log=log)

    return make


def add_oddities(archives: Archives) -> None:
    """Leave one class without test images, and copy a training image into the test archive.

    Both are worth a warning, but no error.
    """
    folder = archives["train_images"].path.parent
    labels, training, test = (idx.read(archives[role].path) for role in ("test_labels", "train_images", "test_images"))
    labels[labels == 1] = 2
    test[7] = training[50]  # 50 is in the validation split
    archives["test_labels"] = put_archive(folder, "test_labels", labels)
    archives["test_images"] = put_archive(folder, "test_images", test)


@pytest.fixture(scope="session")
def small(made: Callable[[str], Made]) -> Made:
    return made("uint8-gz")


@pytest.fixture(scope="session")
def mnist_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the four MNIST archives as .gz: the real content, recompressed at the fastest level."""
    folder = tmp_path_factory.mktemp("mnist")
    for role, archive in CATALOG[DATASET].archives.items():
        plain = OfflinePackage().get(role, archive, folder)
        with plain.open("rb") as source, gzip.open(folder / archive.gz_name, "wb", compresslevel=1) as packed:
            shutil.copyfileobj(source, packed)
        plain.unlink()
    return folder


_FLOCK_TWICE = """
import fcntl, sys
files = [open(sys.argv[1]) for _ in range(2)]
for file in files:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
"""


@pytest.fixture(scope="session")
def without_flock(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Return an environment in which `flock` always succeeds, as on nodes that do not share locks."""
    folder = tmp_path_factory.mktemp("flock")
    source, library = folder / "flock.c", folder / "flock.so"
    source.write_text("int flock(int descriptor, int operation) { return 0; }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    environment = os.environ | {"LD_PRELOAD": str(library)}
    twice = [sys.executable, "-c", _FLOCK_TWICE, str(source)]
    assert subprocess.run(twice, check=False, stderr=subprocess.DEVNULL).returncode == 1
    subprocess.run(twice, env=environment, check=True)
    return environment


@pytest.fixture
def with_umask() -> Iterator[Callable[[int], None]]:
    """Return a function that sets the umask. The original is restored afterwards."""
    before = os.umask(0)
    os.umask(before)

    def set_it(mask: int) -> None:
        os.umask(mask)

    yield set_it
    os.umask(before)


@pytest.fixture(autouse=True)
def registry_of_its_own() -> Iterator[None]:
    """Undo MLflow's changes to this process's environment, which later tests' processes would inherit."""
    before = os.environ.pop("MLFLOW_TRACKING_URI", None)
    yield
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    if before is not None:
        os.environ["MLFLOW_TRACKING_URI"] = before


@pytest.fixture
def idxtrain(tmp_path: Path) -> Idxtrain:
    return idxtrain_in(tmp_path)


def idxtrain_in(folder: Path, program: Sequence[str] = (str(Path(sys.executable).with_name("idxtrain")),)) -> Idxtrain:
    """Return a function that runs `idxtrain` in that folder."""

    def run(
        *args: object, env: Mapping[str, str] | None = None, timeout: float = 600
    ) -> subprocess.CompletedProcess[str]:
        command = [*program, *map(str, args)]
        return subprocess.run(
            command, cwd=folder, env=env, timeout=timeout, capture_output=True, text=True, check=False
        )

    return run


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """Start a Slurm cluster of two nodes. Without its packages, skip; with CI=true, fail."""
    why = missing()
    if why:
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    with SlurmCluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster
