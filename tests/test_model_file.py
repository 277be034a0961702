"""Model files from other sources: anything but a plain model is refused in one line, and none of it is run."""

import ast
import os
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jobs.model_file.weights  # noqa: F401 (imported before the files are watched)
import models
from deploy.registry import export
from deploy.registry.registry import Registry
from jobs.errors import InputError
from jobs.evaluate import predict
from jobs.files import sha256_file
from jobs.model_file.load import load_keras
from jobs.run_dir import Work
from models.training.export import portable
from tests.support import hostile
from tests.test_registry import entry_of

SHAPE, CLASSES = (8, 8, 1), 3
_FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "pickle.find_class")
_watched: list[tuple[str, str]] | None = None


def _record(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched is not None and (event == "open" or event in _FORBIDDEN):
        _watched.append((event, os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes) else ""))


sys.addaudithook(_record)  # for the life of the process


@contextmanager
def nothing_but(path: Path) -> Iterator[None]:
    """Fail if Python opens any other file, starts a process, connects, or reads a pickle meanwhile."""
    global _watched
    own = (str(path), f"{tempfile.gettempdir()}/idxtrain-model-", sys.prefix, sys.base_prefix, "/proc/", "/sys/")
    _watched = []
    try:
        yield
    finally:
        seen, _watched = _watched, None
    assert [each for each in seen if each[1] and not (each[0] == "open" and each[1].startswith(own))] == []


def save(name: str, path: Path) -> Path:
    portable(models.build(name, SHAPE, CLASSES)).save(path)
    return path


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("mnist_cnn", tmp_path_factory.mktemp("good") / "model.keras")


def test_hostile_files_are_refused_in_one_line_and_do_nothing(good: Path, tmp_path: Path) -> None:
    before, names = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    for name, path in hostile.corpus(good, tmp_path):
        there = {each.name for each in tmp_path.iterdir()}
        with hostile.custom_object(tmp_path), nothing_but(path):
            try:
                load_keras(path, "train it again")
            except InputError as error:
                message = str(error)
            else:
                pytest.fail(f"{name}: loaded")
        assert message.startswith(f"{path}: "), name
        assert message.endswith("; fix: train it again"), name
        assert "\n" not in message, name
        assert len(message) < 800, name
        assert {each.name for each in tmp_path.iterdir()} == there, name
        names.append(name)
    assert len(names) > 45
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 400_000, "kB; the bombs hold 1 to 8 GiB each"


@pytest.mark.parametrize("name", models.names())
def test_each_of_our_architectures_loads_with_its_weights(name: str, tmp_path: Path) -> None:
    import keras

    path = save(name, tmp_path / "model.keras")
    with nothing_but(path):
        weights = load_keras(path, "", sha256_file(path)).get_weights()
    expected = keras.models.load_model(path, compile=False).get_weights()
    assert all(np.array_equal(one, other) for one, other in zip(weights, expected, strict=True))


def test_a_foreign_keras_model_loads_without_its_compile_config(tmp_path: Path) -> None:
    import keras

    images = keras.Input(SHAPE)
    x = keras.layers.Conv2D(2, 3, activation=keras.activations.gelu, kernel_regularizer="l2")(images * 2.0 + 0.5)
    x = keras.layers.Flatten()(keras.ops.relu(x)[:, 1:, 2:])
    inner = keras.Sequential([keras.Input((x.shape[1],)), keras.layers.Dense(CLASSES, dtype="mixed_float16")])
    model = keras.Model(images, keras.layers.Softmax(dtype="float32")(inner(x)))
    model.compile("adam", loss=lambda truth, out: out)
    model.fit(np.zeros((4, *SHAPE)), np.zeros((4, CLASSES)), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = load_keras(tmp_path / "model.keras", "")
    assert not loaded.compiled
    some = np.random.default_rng(0).random((5, *SHAPE), np.float32)
    assert np.abs(loaded.predict(some, verbose=0) - model.predict(some, verbose=0)).max() < 1e-6


def test_exactly_the_hashed_bytes_are_loaded(good: Path, tmp_path: Path) -> None:
    assert load_keras(good, "train it again", sha256_file(good))
    with pytest.raises(InputError, match=r"model\.keras: found SHA-256 .*expected 00000000.*; fix: train it again"):
        load_keras(good, "train it again", "0" * 64)
    os.mkfifo(tmp_path / "fifo.keras")
    for path, words in ((tmp_path / "fifo.keras", "no regular file"), (tmp_path, "no regular file|cannot be read")):
        with pytest.raises(InputError, match=words):
            load_keras(path, "train it again")
    with pytest.raises(InputError, match="cannot be read"):
        load_keras(tmp_path / "missing.keras", "train it again")


def _warm_start(path: Path, folder: Path) -> None:
    from jobs.train.compute.network import Network

    network = Network.__new__(Network)  # it reads the file before it uses its model
    network.warm_start(path)


def _register(path: Path, folder: Path) -> None:
    labels = tuple(range(CLASSES))
    entry = replace(entry_of(path), shape=SHAPE, labels=labels, class_names=tuple(map(str, labels)))
    Registry(Work(folder / "work"), "digits", {}).register(entry)


@pytest.mark.parametrize(
    "load",
    [
        lambda path, folder: predict.load_model(path, SHAPE, CLASSES),
        _warm_start,
        lambda path, folder: export.export(path, "keras", folder / "out.keras", folder / "log"),
        _register,
    ],
    ids=["evaluate and compare", "warm start", "export", "register"],
)
def test_every_loader_refuses_a_hostile_file(good: Path, tmp_path: Path, load: Callable[[Path, Path], Any]) -> None:
    files = tmp_path / "files"
    files.mkdir()
    path = dict(hostile.corpus(good, files))["archive: pickle beside"]
    with pytest.raises(InputError, match=r"archive__pickle_beside|archive:_pickle_beside\.keras: .*found members"):
        load(path, tmp_path)
    assert not (files / hostile.RAN).exists()
    assert not (tmp_path / "out.keras").exists()


def test_only_one_module_loads_models() -> None:
    root = Path(__file__).parent.parent
    loaders = []
    for room in ("pipelines", "deploy", "jobs", "models"):
        for path in (root / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute) and node.attr in ("load_model", "load_weights", "load_context"):
                    loaders.append(str(path.relative_to(root)))
    assert loaders == ["jobs/model_file/load.py"]
