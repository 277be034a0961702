"""`idxtrain models export`: each format predicts what the original predicts, or is not written."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deploy.registry import export
from deploy.registry.export import TOLERANCE
from deploy.registry.registry import Registry
from jobs.errors import IdxtrainError, InputError
from jobs.files import sha256_file
from jobs.run_dir import Work
from models import compact
from models.training.export import portable
from tests.conftest import Idxtrain

SHAPE = (14, 12, 1)
# How other software loads the files, in a process that is independent of this project.
LOADERS = {
    "keras": "import keras; out = keras.models.load_model(path).predict(images, verbose=0)",
    "savedmodel": "import tensorflow as tf\n"
    "out = list(tf.saved_model.load(path).signatures['serving_default'](image=images).values())[0].numpy()",
    "onnx": "import onnxruntime; out = onnxruntime.InferenceSession(path).run(None, {'image': images})[0]",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model as training writes it, with random weights whose predictions differ between images."""
    import keras

    keras.utils.set_random_seed(5)
    images = keras.Input(SHAPE, name="image")
    path = tmp_path_factory.mktemp("model") / "model.keras"
    portable(keras.Model(images, compact.build(images, 4, dropout=0.3))).save(path)
    return path


@pytest.mark.long
@pytest.mark.parametrize("kind", export.FORMATS)
def test_other_software_loads_an_export_and_gets_the_same_predictions(model: Path, tmp_path: Path, kind: str) -> None:
    import keras

    to = tmp_path / ("model.keras" if kind == "keras" else "model")
    difference = export.export(model, kind, to, tmp_path / "log")
    assert difference <= TOLERANCE
    images = np.random.default_rng(1).random((9, *SHAPE), np.float32)
    np.save(tmp_path / "images.npy", images)
    code = f"import numpy\npath, images = {str(to)!r}, numpy.load('images.npy')\n{LOADERS[kind]}\n"
    code += "numpy.save('out.npy', out)"
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, env=environment, check=True, capture_output=True)
    expected = keras.models.load_model(model).predict(images, verbose=0)
    assert np.ptp(expected, axis=0).max() > 0.01  # else equal predictions would prove nothing
    assert np.abs(np.load(tmp_path / "out.npy") - expected).max() <= TOLERANCE
    assert {path.name for path in tmp_path.iterdir()} == {to.name, "log", "images.npy", "out.npy"}


@pytest.mark.parametrize("kind", export.FORMATS)
def test_an_export_with_other_predictions_is_not_written(
    model: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = export._READERS[kind]
    monkeypatch.setitem(export._READERS, kind, lambda path: lambda images: read(path)(images) + 2e-5)
    with pytest.raises(IdxtrainError, match=f"found probabilities that differ by up to 2e-05 in the {kind} export"):
        export.export(model, kind, tmp_path / ("model.keras" if kind == "keras" else "model"), tmp_path / "log")
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


@pytest.mark.parametrize(
    ("kind", "to", "words"),
    [
        ("pickle", "x", "expected one of keras, savedmodel, onnx"),
        ("keras", "x.h5", "found .h5, expected .keras"),
        ("onnx", ".", "found an existing path, expected a new one; fix: remove it"),
        ("onnx", "no/where", "found no folder .*; fix: create it"),
    ],
)
def test_a_bad_format_or_target_is_refused_before_anything_is_loaded(
    tmp_path: Path, kind: str, to: str, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        export.check(kind, tmp_path / to)


def test_onnx_is_refused_without_its_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnx" else name)
    with pytest.raises(InputError, match="found no onnx; fix: uv sync --extra onnx"):
        export.check("onnx", tmp_path / "x")


@pytest.mark.long
def test_the_command_exports_the_champion(model: Path, idxtrain: Idxtrain, tmp_path: Path) -> None:
    from tests.test_registry import entry_of

    registry = Registry(Work(tmp_path / "work"), "digits", {})
    registry.set_alias("champion", registry.register(replace(entry_of(model), shape=SHAPE)).number)
    done = idxtrain("models", "export", "--name", "digits", "--to", "model.keras")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "digits: version 1 as keras in model.keras; probabilities differ by up to 0\n"
    assert done.stderr == ""
    assert sha256_file(tmp_path / "model.keras") == sha256_file(model)
    again = idxtrain("models", "export", "--name", "digits", "--to", "model.keras")
    assert again.returncode == 2
    assert "found an existing path" in again.stderr
    assert not list(Work(tmp_path / "work").scratch.iterdir())
