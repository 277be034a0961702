"""The contract of picture names: the file that each image of an archive was made of.

`idxtrain convert` writes `sources.csv` beside the archives: `archive` (train or t10k), `row` (from 0) and `path`. The
list is for the archives whose checksums are in `SHA256SUMS` beside it, in the form of the program `sha256sum`.
`fetch` checks and records it, and `prepare` writes the paths into the dataset, as `pictures.parquet`: `archive`, a
key of the manifest's `sources`, `row` and `path`. The manifest's option `pictures` is that file's SHA-256; where
there is no such option, nothing is known of the pictures.
"""

import logging
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from jobs.files import sha256_file

SOURCES = "sources.csv"
CHECKSUMS = "SHA256SUMS"
COLUMNS = ("archive", "row", "path")
ARCHIVES = {"train": "train_images", "t10k": "test_images"}  # in sources.csv, and the role in their files' names
PICTURES = "pictures.parquet"
OPTION = "pictures"

log = logging.getLogger("idxtrain")


class PictureNames:
    """The names of the pictures of a dataset's archives. The file is read when it is first asked for.

    They are an extra: if the file is missing or altered, none is known, with one warning.
    """

    def __init__(self, directory: Path, options: Mapping[str, int | str]) -> None:
        """`options`: of the dataset's manifest."""
        digest = options.get(OPTION)
        self._path, self._sha256 = directory / PICTURES, None if digest is None else str(digest)

    def __bool__(self) -> bool:
        return bool(self._paths)

    def of(self, archive: str, row: int) -> str:
        """Return the picture's path, relative to what was converted; empty if it is not known.

        `archive`: its key in the manifest's `sources`.
        """
        paths = self._paths.get(archive)
        return "" if paths is None else str(paths[row])

    @cached_property
    def _paths(self) -> dict[str, Any]:
        """The paths of each archive, in the order of its rows."""
        if self._sha256 is None:
            return {}
        import pyarrow.parquet as pq
        from pyarrow import compute

        try:
            digest = sha256_file(self._path)
            problem = "" if digest == self._sha256 else f"found SHA-256 {digest[:12]}…, expected {self._sha256[:12]}…"
        except OSError as error:
            problem = f"cannot be read ({error.strerror})"
        if problem:
            fix = f"remove {self._path.parent} and prepare it again"
            log.warning("%s: %s; the pictures are not named; fix: %s", self._path, problem, fix)
            return {}
        with pq.ParquetFile(self._path) as file:
            table = file.read(use_threads=False)  # pyarrow's threads could abort the process at its end
        return {
            name: table.filter(compute.equal(table["archive"], name))["path"]
            for name in compute.unique(table["archive"]).to_pylist()
        }
