"""Load a Keras file: the only code that does so, for every stage and for the registry.

Keras's `safe_mode` lists what it refuses, and was bypassed several times (CVE-2025-1550, -8747, -9905, -9906,
CVE-2026-1462). This module works the other way round. It reads the file once, checks each member against what a model
needs, and gives Keras a new archive of what passed.
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
_MOST_VALUES = 1 << 28  # in a layer's output for one image: 1 GiB of float32
_COPIES = 3  # in memory at the same time: the file's bytes, the weights cut from them, the model's variables


def load_keras(path: Path, fix: str, sha256: str = "") -> "keras.Model":
    """Return the model of a .keras file, not compiled. Runs no code and opens no file that it names.

    `sha256`: of the file, if known: exactly the bytes with this hash are loaded. Raises InputError, which ends with
    `fix`, if the file is missing, damaged, has another hash, or contains more than a model of Keras's own layers and
    its weights. Import TensorFlow with `jobs.tensorflow_import` first.
    """
    content = _read(path, fix)
    digest = hashlib.sha256(content).hexdigest() if sha256 else ""
    if digest != sha256:
        raise InputError(f"{path}: found SHA-256 {digest[:12]}…, expected {sha256[:12]}…; fix: {fix}")
    try:
        return _load(content)
    except Exception as error:  # zipfile, h5py and Keras raise exceptions of any type
        if full_disk(error):  # the disk of temporary files
            raise
        reason = one_line(error)[:300]
        raise InputError(f"{path}: cannot be loaded as a Keras model ({reason}); fix: {fix}") from error


def _read(path: Path, fix: str) -> bytes:
    """Return the bytes of a regular file. A named pipe would never end."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status, room = os.fstat(descriptor), free_memory() // _COPIES
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"{path}: found no regular file, expected a Keras file; fix: {fix}")
            if status.st_size > room:
                limit = f"expected at most {room:,}, for which there is memory"
                raise InputError(f"{path}: found {status.st_size:,} bytes, {limit}; fix: {fix}")
            return file.read(status.st_size)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); fix: {fix}") from error


def _load(content: bytes) -> "keras.Model":
    import keras

    from jobs.model_file.weights import stored_values

    members = _members(content)
    config = json.loads(members[_CONFIG])
    require_plain(config)
    plain = json.dumps(config)
    _require_fitting_weights(config, stored_values(members[_WEIGHTS]))
    with tempfile.TemporaryDirectory(prefix="idxtrain-model-") as folder:
        clean = Path(folder) / "model.keras"
        with zipfile.ZipFile(clean, "w") as archive:
            archive.writestr(_METADATA, members[_METADATA])
            archive.writestr(_CONFIG, plain)
            archive.writestr(_WEIGHTS, members[_WEIGHTS])
        return keras.models.load_model(clean, compile=False, safe_mode=True)


def _members(content: bytes) -> dict[str, bytes]:
    """Return the three members of the archive by name. They must be stored uncompressed, which excludes zip bombs."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        names = sorted(member.filename for member in members)
        if names != [_CONFIG, _METADATA, _WEIGHTS]:
            raise ValueError(f"found members {names}, expected {_CONFIG}, {_METADATA} and {_WEIGHTS}, each once")
        for member in members:
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG) or member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"found {member.filename} compressed or a link, expected it stored, as Keras does")
            if member.filename != _WEIGHTS and member.file_size > _MOST_CONFIG:
                raise ValueError(
                    f"found {member.filename} of {member.file_size:,} bytes, expected at most {_MOST_CONFIG:,}"
                )
        return {name: archive.read(name) for name in names}


def _require_fitting_weights(config: dict[str, Any], stored: int) -> None:
    """Raise ValueError if the layers need more weights than are stored, or more memory for their outputs than allowed.

    Builds the model without memory for its weights, in about 10 ms, which consumes `config`.
    """
    import keras

    with keras.StatelessScope(initialize_variables=False):
        model = keras.saving.deserialize_keras_object(config, safe_mode=True)
    if not isinstance(model, keras.Model):
        raise ValueError(f"found a {type(model).__name__}, expected a model")
    needed = sum(math.prod(weight.shape) for weight in model.weights)
    if needed > stored:
        raise ValueError(f"found {stored:,} stored weights, expected the {needed:,} of its layers")
    for layer in model.layers:
        for tensor in keras.tree.flatten(layer.output):
            values = math.prod(size or 1 for size in tensor.shape[1:])
            if values > _MOST_VALUES:
                raise ValueError(
                    f"layer {layer.name}: found {values:,} output values per image, expected at most {_MOST_VALUES:,}"
                )
