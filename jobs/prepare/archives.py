"""The archives of a dataset: their headers fit each other, and their rows can be read in ranges."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs import archive_headers
from jobs.archive import Archive, is_gzip
from jobs.errors import InputError
from jobs.files import sha256_file
from jobs.label_options import Column
from jobs.prepare import idx
from jobs.prepare.labels import LabelColumn

_WINDOW_BYTES = 16 << 20  # rows of a split may lie far apart: what is read at a time to select them


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Images and labels, both plain IDX files on a file system that all executors see.

    `label_column`: in label files of several numbers per image. `image_archive`, `label_archive`: the files that they
    came from, which people know and errors name.
    """

    images: Path
    labels: Path
    image_header: idx.Header
    label_header: idx.Header
    image_archive: Path
    label_archive: Path
    label_column: Column = 0

    @property
    def label_file(self) -> LabelColumn:
        """The labels."""
        return LabelColumn(self.labels, self.label_header, self.label_column)

    def read_images(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return images [n, *row shape] as stored, for increasing int64 row numbers [n], n ≥ 1."""
        return _select(rows, self.image_header, partial(idx.read_rows, self.images, self.image_header))

    def read_labels(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return labels int64 [n] as stored, for increasing int64 row numbers [n], n ≥ 1."""
        return _select(rows, self.label_header, self.label_file.read)


def _select(rows: NDArray[Any], header: idx.Header, read: Callable[[int, int], NDArray[Any]]) -> NDArray[Any]:
    """Return increasing rows of an archive by reading ranges of at most 16 MiB that hold some of them."""
    window = max(1, _WINDOW_BYTES // header.row_bytes)
    cuts = np.flatnonzero(np.diff(rows // window)) + 1
    pieces = [read(int(each[0]), int(each[-1]) + 1)[each - each[0]] for each in np.split(rows, cuts)]
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def pair_of(
    split: str,
    archives: Mapping[str, Archive],
    plain: Mapping[str, Path],
    headers: Mapping[str, idx.Header],
    label_column: Column = 0,
) -> Pair:
    """Return the pair of a "train" or "test" split. All three mappings are by role; `plain`: from `inflate`."""
    images, labels = f"{split}_images", f"{split}_labels"
    return Pair(
        images=plain[images],
        labels=plain[labels],
        image_header=headers[images],
        label_header=headers[labels],
        image_archive=archives[images].path,
        label_archive=archives[labels].path,
        label_column=label_column,
    )


def read_headers(archives: Mapping[str, Archive], label_column: Column = 0) -> dict[str, idx.Header]:
    """Read the header of each archive, by role. Raises InputError unless they fit each other."""
    return archive_headers.read_headers({role: archive.path for role, archive in archives.items()}, label_column)


def image_shape(header: idx.Header) -> tuple[int, int, int]:
    """Return height, width, channels of an image archive: idx2 has rows of pixels, idx3 one channel, idx4 several."""
    if len(header.row_shape) == 1:
        return 1, header.row_shape[0], 1
    height, width, *channels = header.row_shape
    return height, width, channels[0] if channels else 1


@contextmanager
def inflated(archives: Mapping[str, Archive], scratch: Path) -> Iterator[dict[str, Path]]:
    """Yield what `inflate` returns, and ensure that the body reads the bytes that fetch hashed.

    A gzip archive is read once. A plain archive is read in place, repeatedly: at the end it must have the same SHA-256,
    and no process may have written to it meanwhile. Raises InputError if an archive changed.
    """
    before = {role: _last_change(archive.path) for role, archive in archives.items()}
    plain = inflate(archives, scratch)
    in_place = [role for role, archive in archives.items() if plain[role] == archive.path]

    def require_unchanged(role: str) -> None:
        archive = archives[role]
        if (_last_change(archive.path), sha256_file(archive.path)) != (before[role], archive.sha256):
            raise InputError(
                f"{archive.path}: changed while it was read, expected the fetched bytes (SHA-256 "
                f"{archive.sha256[:12]}…); fix: wait until no process writes to it, then run again"
            )

    def require_all_unchanged() -> None:
        if in_place:
            with ThreadPoolExecutor(len(in_place)) as pool:
                list(pool.map(require_unchanged, in_place))

    try:
        yield plain
    except InputError:
        require_all_unchanged()  # a change may be the cause
        raise
    require_all_unchanged()


def _last_change(path: Path) -> tuple[int, int, int]:
    """Return what every write to a file changes; unlike `st_mtime_ns`, nothing sets `st_ctime_ns` back."""
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); fix: restore it, then run again") from error
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def inflate(archives: Mapping[str, Archive], scratch: Path) -> dict[str, Path]:
    """Return a plain file for each archive: a plain archive itself, else a copy in `scratch`. Works in parallel.

    Checks each archive against the SHA-256 of fetch, a gzip archive in the pass that inflates it. Raises InputError.
    """

    def inflate_one(role: str) -> Path:
        archive = archives[role]
        if not is_gzip(archive.path):
            _require_hash(archive, sha256_file(archive.path))
            return archive.path
        digest = hashlib.sha256(usedforsecurity=False)
        try:
            idx.inflate(archive.path, scratch / role, digest)
        except idx.IdxError:
            _require_hash(archive, sha256_file(archive.path))  # if the file changed, report that instead
            raise
        _require_hash(archive, digest.hexdigest())
        return scratch / role

    with ThreadPoolExecutor(len(archives)) as pool:
        return dict(zip(archives, pool.map(inflate_one, archives), strict=True))


def _require_hash(archive: Archive, digest: str) -> None:
    if digest != archive.sha256:
        raise InputError(
            f"{archive.path}: found SHA-256 {digest[:12]}…, expected {archive.sha256[:12]}… as fetched; "
            "fix: run again, as it changed since"
        )
