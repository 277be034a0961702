"""Import TensorFlow and Keras without their messages on the user's terminal."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def import_tensorflow(log: Path) -> None:
    """Import TensorFlow and Keras for the first time in this process; send what they print meanwhile to `log`.

    At each import the CUDA libraries inside TensorFlow report from C++ that they are registered twice, before any log
    level is read. Real faults are raised as exceptions.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # later C++ messages: only fatal ones
    _configure_keras()
    # TensorFlow enables oneDNN's kernels by itself only on CPUs with AVX-512 VNNI or the like (release notes of 2.9).
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    log.parent.mkdir(exist_ok=True)
    with native_stderr_to(log), _hidden("sklearn", "matplotlib"):
        import keras  # noqa: F401
        import tensorflow  # noqa: F401


def _configure_keras() -> None:
    """Keep the user's Keras settings out of this process: channels first, or shortened epochs, make another model.

    Keras reads `keras.json` in KERAS_HOME, by default `~/.keras`, and creates it if it is missing.
    """
    for name in [name for name in os.environ if name.startswith("KERAS_")]:
        del os.environ[name]
    os.environ["KERAS_HOME"] = os.devnull  # not a folder, so Keras neither reads nor writes a file there
    os.environ["KERAS_BACKEND"] = "tensorflow"


@contextmanager
def _hidden(*modules: str) -> Iterator[None]:
    """Make the import of these modules fail as if they were not installed.

    Keras imports them for wrappers and pictures that no stage uses, and works without them. They take a third of its
    import time.
    """
    hidden = [module for module in modules if module not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None is Python's own mark for this
    try:
        yield
    finally:
        for module in hidden:
            del sys.modules[module]


@contextmanager
def native_stderr_to(path: Path) -> Iterator[None]:
    """Send file descriptor 2, which C++ writes to, to a file."""
    stderr = os.dup(2)
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.dup2(target, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(target)
