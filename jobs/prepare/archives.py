"""The archives of a dataset: their headers fit each other, and their rows can be read in ranges."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from jobs import archive_headers
from jobs.archive import Archive, is_gzip
from jobs.errors import InputError
from jobs.files import sha256_file
from jobs.label_options import Column
from jobs.prepare import idx, members
from jobs.prepare.digests import join_files
from jobs.prepare.labels import LabelColumn

Task = TypeVar("Task")
Result = TypeVar("Result")
Run = Callable[[Callable[[Any], Any], Sequence[Any]], list[Any]]  # such as `in_threads`

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


def in_threads(function: Callable[[Task], Result], tasks: Sequence[Task]) -> list[Result]:
    """Return function(task) for each task, in order: reading, hashing and inflating do not hold Python's lock."""
    with ThreadPoolExecutor(max(1, min(len(tasks), len(os.sched_getaffinity(0))))) as pool:
        return list(pool.map(function, tasks))


@dataclass(frozen=True)
class Inflated:
    """Archives by any key, and a plain file of each. `changes`: `_last_change` of each before it was hashed."""

    archives: Mapping[str, Archive]
    plain: dict[str, Path]
    changes: Mapping[str, tuple[int, int, int]]

    def part(self, keys: Mapping[str, str]) -> "Inflated":
        """Return some of the archives under other keys: `keys` maps the new ones to these."""
        return Inflated(
            {new: self.archives[old] for new, old in keys.items()},
            {new: self.plain[old] for new, old in keys.items()},
            {new: self.changes[old] for new, old in keys.items()},
        )

    @contextmanager
    def unchanged(self) -> Iterator[dict[str, Path]]:
        """Yield the plain files, and ensure that the body reads the bytes that fetch hashed.

        A gzip archive was read once. A plain archive is read in place, repeatedly: at the end it must have the same
        SHA-256, and no process may have written to it meanwhile. Raises InputError if an archive changed.
        """
        in_place = [key for key, archive in self.archives.items() if self.plain[key] == archive.path]
        try:
            yield self.plain
        except InputError:
            in_threads(self._require_unchanged, in_place)  # a change may be the cause
            raise
        in_threads(self._require_unchanged, in_place)

    def _require_unchanged(self, key: str) -> None:
        archive = self.archives[key]
        if (_last_change(archive.path), sha256_file(archive.path)) != (self.changes[key], archive.sha256):
            raise InputError(
                f"{archive.path}: changed while it was read, expected the fetched bytes (SHA-256 "
                f"{archive.sha256[:12]}…); fix: wait until no process writes to it, then run again"
            )


@contextmanager
def inflated(archives: Mapping[str, Archive], scratch: Path, run: Run = in_threads) -> Iterator[dict[str, Path]]:
    """Yield what `inflate` returns, and ensure that the body reads the bytes that fetch hashed."""
    with inflate_all(archives, scratch, run).unchanged() as plain:
        yield plain


def _last_change(path: Path) -> tuple[int, int, int]:
    """Return what every write to a file changes; unlike `st_mtime_ns`, nothing sets `st_ctime_ns` back."""
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); fix: restore it, then run again") from error
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def inflate_all(archives: Mapping[str, Archive], scratch: Path, run: Run = in_threads) -> Inflated:
    """Inflate archives as `inflate` does, and remember when they last changed."""
    changes = {key: _last_change(archive.path) for key, archive in archives.items()}
    return Inflated(archives, inflate(archives, scratch, run), changes)


def inflate(archives: Mapping[str, Archive], scratch: Path, run: Run = in_threads) -> dict[str, Path]:
    """Return a plain file for each archive: a plain archive itself, else a copy in `scratch` under its key.

    Checks each archive against the SHA-256 of fetch, a gzip archive in the pass that inflates it; one of several
    members is inflated in ranges (`jobs.prepare.members`), and must not change meanwhile. Never holds more than a few
    MiB of an archive. `run`: runs a function on all tasks, in parallel. Raises InputError.
    """
    of_members = {key: _ranges(archive, scratch / key) for key, archive in archives.items()}
    before = {key: _last_change(archives[key].path) for key, each in of_members.items() if each}
    wholes = [(archive, None if of_members[key] else scratch / key) for key, archive in archives.items()]
    results = run(_inflate_any, [*wholes, *chain.from_iterable(of_members.values())])
    plain, sizes = dict(zip(archives, results, strict=False)), iter(results[len(archives) :])
    for key, ranges in of_members.items():
        if ranges:
            is_whole = min([next(sizes) for _ in ranges]) >= 0 and _last_change(archives[key].path) == before[key]
            plain[key] = _joined(archives[key], ranges, scratch / key, is_whole)
    return plain


def _ranges(archive: Archive, target: Path) -> list[members.MemberRange]:
    """Return the ranges of members that an archive is inflated in; none if it is inflated as one stream."""
    if not is_gzip(archive.path):
        return []
    try:
        return members.ranges(archive.path, target, lambda: idx.read_header(archive.path).file_bytes)
    except idx.IdxError:
        return []  # the stream reports it


def _joined(archive: Archive, ranges: Sequence[members.MemberRange], target: Path, is_whole: bool) -> Path:
    """Join the plain bytes of an archive's ranges; inflate it as one stream if they are not the whole archive."""
    pieces = [each.target for each in ranges]
    if is_whole:
        join_files(pieces, target)
    for piece in pieces:
        piece.unlink(missing_ok=True)
    if is_whole and target.stat().st_size == ranges[0].most:
        return target
    return _inflate_one((archive, target))


def _inflate_any(task: "tuple[Archive, Path | None] | members.MemberRange") -> Path | int:
    return members.inflate_range(task) if isinstance(task, members.MemberRange) else _inflate_one(task)


def _inflate_one(task: tuple[Archive, Path | None]) -> Path:
    """Inflate and check an archive, or only check it if there is no target; return the plain file."""
    archive, target = task
    if target is None or not is_gzip(archive.path):
        _require_hash(archive, sha256_file(archive.path))
        return archive.path
    digest = hashlib.sha256(usedforsecurity=False)
    try:
        idx.inflate(archive.path, target, digest)
    except idx.IdxError:
        _require_hash(archive, sha256_file(archive.path))  # if the file changed, report that instead
        raise
    _require_hash(archive, digest.hexdigest())
    return target


def _require_hash(archive: Archive, digest: str) -> None:
    if digest != archive.sha256:
        raise InputError(
            f"{archive.path}: found SHA-256 {digest[:12]}…, expected {archive.sha256[:12]}… as fetched; "
            "fix: run again, as it changed since"
        )
