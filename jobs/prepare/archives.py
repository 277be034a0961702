"""The four archives of a dataset as one thing: their headers agree, and their rows can be read in ranges."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jobs.archive import Archive
from jobs.errors import InputError
from jobs.files import sha256_file
from jobs.prepare import idx


@dataclass(frozen=True)
class Pair:
    """Images and labels, both plain IDX files on a file system that all executors see.

    `image_archive`, `label_archive`: the files they came from, which are what a person knows and errors name.
    """

    images: Path
    labels: Path
    image_header: idx.Header
    label_header: idx.Header
    image_archive: Path
    label_archive: Path

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return images [n, *row shape] and labels [n] as stored, for increasing int64 row numbers [n], n ≥ 1.

        One contiguous read, then the rows wanted: the shards' rows lie close together.
        """
        low, high = int(rows[0]), int(rows[-1]) + 1
        images = idx.read_rows(self.images, self.image_header, low, high)
        labels = idx.read_rows(self.labels, self.label_header, low, high)
        return images[rows - low], labels[rows - low]


def read_headers(archives: Mapping[str, Archive]) -> dict[str, idx.Header]:
    """Read and check the header of each archive, and that they fit each other. Raises InputError."""
    headers = {role: idx.read_header(archive.path) for role, archive in archives.items()}
    for split in ("train", "test"):
        images, labels = f"{split}_images", f"{split}_labels"
        idx.check_pair(archives[images].path, headers[images], archives[labels].path, headers[labels])
    train, test = headers["train_images"], headers["test_images"]
    if train.row_shape != test.row_shape or train.dtype != test.dtype:
        raise InputError(
            f"{archives['test_images'].path}: found images {test}, expected the shape and type of the training "
            f"archive's, {train}; give archives of one data set"
        )
    return headers


def image_shape(header: idx.Header) -> tuple[int, int, int]:
    """Return height, width, channels of an image archive: idx2 has rows of pixels, idx3 one channel, idx4 many."""
    if len(header.row_shape) == 1:
        return 1, header.row_shape[0], 1
    height, width, *channels = header.row_shape
    return height, width, channels[0] if channels else 1


def inflate(archives: Mapping[str, Archive], scratch: Path) -> dict[str, Path]:
    """Return a plain file for each archive: its own where it is plain, else inflated into `scratch`, all at once.

    Each is checked against the SHA-256 that fetch saw, in the same go. Raises InputError.
    """

    def inflate_one(role: str) -> Path:
        archive = archives[role]
        found = sha256_file(archive.path)
        if found != archive.sha256:
            raise InputError(
                f"{archive.path}: found SHA-256 {found[:12]}…, expected {archive.sha256[:12]}… as fetched; "
                "it changed since, so run again"
            )
        if not is_gzip(archive.path):
            return archive.path
        idx.inflate(archive.path, scratch / role)
        return scratch / role

    with ThreadPoolExecutor(len(archives)) as pool:
        return dict(zip(archives, pool.map(inflate_one, archives), strict=True))


def is_gzip(path: Path) -> bool:
    """Tell whether a file is gzip, by its first bytes."""
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"
