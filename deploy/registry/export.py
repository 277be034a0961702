"""Export a registered model as Keras, SavedModel or ONNX: written only if it predicts what the original predicts."""

import secrets
import shutil
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.errors import IdxtrainError, InputError, one_line
from jobs.files import full_disk, sync
from jobs.model_file.load import load_keras
from jobs.tensorflow_import import import_tensorflow, native_stderr_to

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMATS = ("keras", "savedmodel", "onnx")
TOLERANCE = 1e-5  # largest difference of any probability

_IMAGES = 64  # compared: one black, one white, the others noise
_FIX = "export another version"
_ONNX = ("tf2onnx", "onnx", "onnxruntime")


def check(kind: str, to: Path) -> None:
    """Raise InputError if the format or the target is refused; loads nothing."""
    if kind not in FORMATS:
        raise InputError(f"--format: found {kind}, expected one of {', '.join(FORMATS)}")
    missing = [name for name in _ONNX if find_spec(name) is None] if kind == "onnx" else []
    if missing:
        raise InputError(f"--format onnx: found no {', '.join(missing)}; fix: uv sync --extra onnx")
    if to.exists():
        raise InputError(f"--to {to}: found an existing path, expected a new one; fix: remove it, or give another")
    if not to.parent.is_dir():
        raise InputError(f"--to {to}: found no folder {to.parent}; fix: create it, or give another path")
    if kind == "keras" and to.suffix != ".keras":
        raise InputError(f"--to {to}: found {to.suffix or 'no suffix'}, expected .keras; fix: rename it")


def export(model: Path, kind: str, to: Path, log: Path) -> float:
    """Write a Keras file's model to `to` in another format; return the largest difference of any probability.

    `to`: a folder for "savedmodel", else a file. `log`: the file for TensorFlow's own output. Raises IdxtrainError, and
    writes nothing, if a probability differs from the original's by more than TOLERANCE.
    """
    import_tensorflow(log)
    temporary = to.with_name(f".{secrets.token_hex(4)}.tmp-{to.name}")
    try:
        with native_stderr_to(log), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            original = load_keras(model, _FIX)
            _WRITERS[kind](original, model, temporary)
            difference = _difference(original, _READERS[kind](temporary))
        if not difference <= TOLERANCE:
            raise IdxtrainError(
                f"{to}: found probabilities that differ by up to {difference:.2g} in the {kind} export, "
                f"expected at most {TOLERANCE:g}; nothing was written; fix: choose another --format"
            )
        for path in (*(temporary.rglob("*") if temporary.is_dir() else ()), temporary):
            sync(path)
        temporary.rename(to)
    except (IdxtrainError, OSError):
        raise
    except Exception as error:
        number = full_disk(error)
        if number is not None:
            raise OSError(number, "no space left for the export", str(to)) from error
        raise IdxtrainError(f"{to}: cannot be exported as {kind}: {one_line(error)[:300]}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if temporary.is_file():
            temporary.unlink()
    sync(to.parent)
    return difference


def _difference(original: Any, predict: Callable[["NDArray[Any]"], "NDArray[Any]"]) -> float:
    """Return the largest difference of any probability, on images float32 [n, height, width, channels] in [0, 1]."""
    import numpy as np

    shape = original.input_shape[1:]
    images = np.random.default_rng(0).random((_IMAGES, *shape), np.float32)
    images[0], images[1] = 0, 1
    return max(
        float(np.abs(predict(batch) - original.predict(batch, verbose=0)).max()) for batch in (images, images[:1])
    )


def _write_keras(original: Any, model: Path, to: Path) -> None:
    shutil.copyfile(model, to)


def _write_saved_model(original: Any, model: Path, to: Path) -> None:
    original.export(str(to), format="tf_saved_model", verbose=False)


def _write_onnx(original: Any, model: Path, to: Path) -> None:
    import numpy as np

    original(np.zeros((1, *original.input_shape[1:]), np.float32))  # Keras converts only a model that was called
    original.export(str(to), format="onnx", verbose=False)


def _read_keras(path: Path) -> Callable[["NDArray[Any]"], "NDArray[Any]"]:
    model = load_keras(path, _FIX)
    return lambda images: model.predict(images, verbose=0)


def _read_saved_model(path: Path) -> Callable[["NDArray[Any]"], "NDArray[Any]"]:
    import tensorflow as tf

    model = tf.saved_model.load(str(path))
    return lambda images: model.serve(images).numpy()


def _read_onnx(path: Path) -> Callable[["NDArray[Any]"], "NDArray[Any]"]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


_WRITERS: dict[str, Callable[[Any, Path, Path], None]] = {
    "keras": _write_keras,
    "savedmodel": _write_saved_model,
    "onnx": _write_onnx,
}
_READERS: dict[str, Callable[[Path], Callable[["NDArray[Any]"], "NDArray[Any]"]]] = {
    "keras": _read_keras,
    "savedmodel": _read_saved_model,
    "onnx": _read_onnx,
}
