"""Load a Keras file: the only place that does, for every stage and for the registry.

Keras's `safe_mode` lists what it refuses, and has been got around several times (CVE-2025-1550, -8747, -9905, -9906,
CVE-2026-1462). Here the reverse holds: the file's bytes are read once, each part is checked against what a model needs,
and Keras gets an archive that was written again from what passed.
"""

import hashlib
import io
import json
import math
import os
import stat
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.errors import InputError, one_line
from jobs.files import full_disk
from jobs.memory import free_memory
from jobs.model_file.architecture import require_plain

if TYPE_CHECKING:
    import keras

_CONFIG, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
_MOST_CONFIG = 4 << 20  # bytes of JSON; a network of 32 residual blocks has 0.2 MB
_MOST_VALUES = 1 << 28  # that a layer may put out for one image: 1 GiB of float32
_COPIES = 3  # of a file that are in memory at the same time: the bytes, the weights among them, the model's own


def load_keras(path: Path, fix: str, sha256: str = "") -> "keras.Model":
    """Return the model of a .keras file, not compiled; run no code and open no file that it names.

    `sha256`: of the file, where it is known: the bytes that have it are the bytes that are loaded. Raises InputError,
    which ends in `fix`, where the file is missing, another one, damaged, or holds more than a model of Keras's own
    layers and its weights. TensorFlow is to be imported by `jobs.tensorflow_import` first.
    """
    content = _read(path, fix)
    digest = hashlib.sha256(content).hexdigest() if sha256 else ""
    if digest != sha256:
        raise InputError(f"{path}: found SHA-256 {digest[:12]}…, expected {sha256[:12]}…; {fix}")
    try:
        return _load(content)
    except Exception as error:  # zipfile, h5py and Keras raise whatever reading the file ran into
        if full_disk(error):  # of temporary files
            raise
        reason = one_line(error)[:300]
        raise InputError(f"{path}: cannot be loaded as a Keras model ({reason}); {fix}") from error


def _read(path: Path, fix: str) -> bytes:
    """Return the bytes of a regular file: a FIFO would never end."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status, room = os.fstat(descriptor), free_memory() // _COPIES
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"{path}: found no regular file, expected a Keras file; {fix}")
            if status.st_size > room:
                raise InputError(f"{path}: found {status.st_size:,} bytes, there is memory for {room:,}; {fix}")
            return file.read(status.st_size)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {fix}") from error


def _load(content: bytes) -> "keras.Model":
    import keras

    from jobs.model_file.weights import stored_values

    members = _members(content)
    config = json.loads(members[_CONFIG])
    require_plain(config)
    plain = json.dumps(config)
    _require_as_described(config, stored_values(members[_WEIGHTS]))
    with tempfile.TemporaryDirectory(prefix="idxtrain-model-") as folder:
        clean = Path(folder) / "model.keras"
        with zipfile.ZipFile(clean, "w") as archive:
            archive.writestr(_METADATA, members[_METADATA])
            archive.writestr(_CONFIG, plain)
            archive.writestr(_WEIGHTS, members[_WEIGHTS])
        return keras.models.load_model(clean, compile=False, safe_mode=True)


def _members(content: bytes) -> dict[str, bytes]:
    """Return the three members of the archive, by name. Keras stores them as they are, so no bomb fits in."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        names = sorted(member.filename for member in members)
        if names != [_CONFIG, _METADATA, _WEIGHTS]:
            raise ValueError(f"found members {names}, expected {_CONFIG}, {_METADATA} and {_WEIGHTS}, each once")
        for member in members:
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG) or member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"found {member.filename} compressed or a link, expected it stored as Keras does")
            if member.filename != _WEIGHTS and member.file_size > _MOST_CONFIG:
                raise ValueError(f"found {member.filename} of {member.file_size:,} bytes, at most {_MOST_CONFIG:,}")
        return {name: archive.read(name) for name in names}


def _require_as_described(config: dict[str, Any], stored: int) -> None:
    """Raise ValueError where the layers want more weights than are stored, or put out more than memory holds.

    The model is built without memory for its weights, some 10 ms, which uses up `config`.
    """
    import keras

    with keras.StatelessScope(initialize_variables=False):
        model = keras.saving.deserialize_keras_object(config, safe_mode=True)
    if not isinstance(model, keras.Model):
        raise ValueError(f"found a {type(model).__name__}, expected a model")
    wanted = sum(math.prod(weight.shape) for weight in model.weights)
    if wanted > stored:
        raise ValueError(f"its layers want {wanted:,} weights, found {stored:,} stored")
    for layer in model.layers:
        for tensor in keras.tree.flatten(layer.output):
            values = math.prod(size or 1 for size in tensor.shape[1:])
            if values > _MOST_VALUES:
                raise ValueError(f"layer {layer.name} puts out {values:,} values an image, at most {_MOST_VALUES:,}")
