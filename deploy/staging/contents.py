"""Which files of a Python environment its programs need: all but tests, headers and sources for compilers.

TensorFlow's headers alone are 14,227 files. Compilers need them, to build Horovod, but no program does.
"""

from collections.abc import Iterator
from pathlib import Path

# Not `test`: TensorFlow's `tf.test` is a package of that name, which TensorFlow imports.
_FOLDERS = {"tests", "include"}
_SUFFIXES = {".h", ".hh", ".hpp", ".hxx", ".cuh", ".inc", ".c", ".cc", ".cpp", ".cu", ".pxd", ".pyx", ".f90", ".a"}


def needed(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder that programs need, and the links to files, in the order of their paths."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            if path.name not in _FOLDERS:
                yield from needed(path)
        elif path.suffix not in _SUFFIXES:
            yield path


def unneeded(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder that no program needs, and the folders that have only such files."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            if path.name in _FOLDERS:
                yield path
            else:
                yield from unneeded(path)
        elif path.suffix in _SUFFIXES:
            yield path
