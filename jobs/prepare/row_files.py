"""The archive rows of each split, in files that the driver writes and executors read: a plan of any length is small."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from jobs.dataset import Split
from jobs.errors import IdxtrainError
from jobs.files import sync
from jobs.prepare.mapped import mapped

_TYPE = np.dtype("<i8")
_FIX = "fix: give a --work on a file system that all executors share"


@dataclass(frozen=True)
class RowFiles:
    """One file per split, of increasing int64 row numbers, in a folder that all executors see."""

    directory: Path

    def path(self, split: Split) -> Path:
        """Return the file of a split."""
        return self.directory / f"{split}.rows"

    def digests(self, split: Split) -> Path:
        """Return the file of the digests of a split's images (`jobs.prepare.digests`), beside its rows."""
        return self.directory / f"{split}.digests"

    def read(self, split: Split, start: int, stop: int) -> NDArray[Any]:
        """Return the archive rows of the split's rows [start, stop): int64 [stop − start], increasing."""
        path = self.path(split)
        try:
            rows = np.fromfile(path, _TYPE, stop - start, offset=start * _TYPE.itemsize)
        except OSError as error:
            raise IdxtrainError(f"{path}: cannot be read ({error.strerror}); {_FIX}") from error
        if len(rows) != stop - start:
            raise IdxtrainError(f"{path}: found {start + len(rows)} rows, expected {stop} or more; {_FIX}")
        return rows.astype(np.int64, copy=False)

    def whole(self, split: Split) -> NDArray[Any]:
        """Return all archive rows of a split, int64, increasing, mapped."""
        return mapped(self.path(split), _TYPE)

    @contextmanager
    def writing(self, *splits: Split) -> Iterator["RowWriter"]:
        """Replace these splits' files with what the body adds, flushed to disk at the end."""
        with ExitStack() as stack:
            yield RowWriter({split: stack.enter_context(self.path(split).open("wb")) for split in splits})
        for split in splits:
            sync(self.path(split))


@dataclass(frozen=True)
class RowWriter:
    """Open files of rows, by split."""

    files: dict[Split, IO[bytes]]

    def add(self, split: Split, rows: NDArray[Any]) -> None:
        """Append row numbers to a split."""
        self.files[split].write(rows.astype(_TYPE).tobytes())
