"""The contract of picture names: the file that each image of an archive was made of.

`idxtrain convert` writes `sources.csv` beside the archives: `archive` (train or t10k), `row` (from 0) and `path`.
`fetch` checks and records it, and `prepare` writes the paths into the dataset, as `pictures.parquet`: `archive`, a key
of the manifest's `sources`, `row` and `path`. The manifest's option `pictures` is that file's SHA-256; where there is
no such option, nothing is known of the pictures.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from jobs.errors import InputError
from jobs.files import sha256_file

SOURCES = "sources.csv"
COLUMNS = ("archive", "row", "path")
ARCHIVES = {"train": "train_images", "t10k": "test_images"}  # in sources.csv, and the role in their files' names
PICTURES = "pictures.parquet"
OPTION = "pictures"


class PictureNames:
    """The names of the pictures of a dataset's archives. The file is read when the first one is asked for."""

    def __init__(self, directory: Path, options: Mapping[str, int | str]) -> None:
        """`options`: of the dataset's manifest."""
        self._path, self._sha256 = directory / PICTURES, options.get(OPTION)

    def __bool__(self) -> bool:
        return self._sha256 is not None

    def of(self, archive: str, row: int) -> str:
        """Return the picture's path, relative to what was converted; empty if it is not known.

        `archive`: its key in the manifest's `sources`. Raises InputError if the file is missing or altered.
        """
        paths = self._paths.get(archive) if self else None
        return "" if paths is None else str(paths[row])

    @cached_property
    def _paths(self) -> dict[str, Any]:
        """The paths of each archive, in the order of its rows."""
        import pyarrow.parquet as pq
        from pyarrow import compute

        fix = f"fix: remove {self._path.parent} and prepare it again"
        try:
            digest = sha256_file(self._path)
        except OSError as error:
            raise InputError(f"{self._path}: cannot be read ({error.strerror}); {fix}") from error
        if digest != self._sha256:
            raise InputError(f"{self._path}: found SHA-256 {digest[:12]}…, expected {str(self._sha256)[:12]}…; {fix}")
        table = pq.read_table(self._path)
        return {
            name: table.filter(compute.equal(table["archive"], name))["path"]
            for name in compute.unique(table["archive"]).to_pylist()
        }
