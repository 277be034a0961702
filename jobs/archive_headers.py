"""What the archives of a data set must agree on, judged by headers alone: one check for plan, fetch and prepare.

A pair is images and as many labels. Labels are one number per image (idx1), or several in columns (idx2) of which
`label_column` is the label, or that are one-hot. All images of a data set have one shape and type.
"""

from collections.abc import Mapping
from pathlib import Path

from jobs import segments
from jobs.archive import is_git_lfs_pointer, role_of_key
from jobs.errors import InputError
from jobs.label_options import ONE_HOT, Column
from jobs.prepare import idx
from jobs.words import counted


def read_pair_headers(images: Path, labels: Path, label_column: Column = 0) -> tuple[idx.Header, idx.Header]:
    """Return the headers of an image and a label archive. Raises InputError unless they make a pair."""
    image_header, label_header = _read_header(images), _read_header(labels)
    in_columns = is_in_columns(label_header)
    if in_columns and label_column != ONE_HOT and label_column >= label_header.shape[1]:
        raise InputError(
            f"{labels}: found {counted(label_header.shape[1], 'column')}, expected the label in column {label_column} "
            "(from 0); "
            "fix: set prepare.label_column, or label_column in data.toml"
        )
    one_label_each = idx.Header(label_header.dtype, label_header.shape[:1]) if in_columns else label_header
    idx.check_pair(images, image_header, labels, one_label_each)
    return image_header, label_header


def is_in_columns(labels: idx.Header) -> bool:
    """Return whether a label archive has several numbers per image, or one of them in a column of its own."""
    return len(labels.shape) == 2 and labels.dtype.kind in "iu"


def read_headers(paths: Mapping[str, Path], label_column: Column = 0) -> dict[str, idx.Header]:
    """Read the header of each archive. Raises InputError unless they fit each other.

    `paths`, and the result: by role or, with several training pairs, by role and tag (`jobs.segments.key`). Any may be
    missing.
    """
    images = [key for key in paths if role_of_key(key).endswith("images")]
    images.sort(key=lambda key: not key.startswith("train"))  # the others are compared with the training images
    headers: dict[str, idx.Header] = {}
    for key in images:
        labels = key.replace("_images", "_labels", 1)
        if labels in paths:
            headers[key], headers[labels] = read_pair_headers(paths[key], paths[labels], label_column)
    for key in paths.keys() - headers.keys():  # without the other archive of its pair
        headers[key] = _read_header(paths[key])
    for key in images:
        require_same_images(paths[key], headers[key], headers[images[0]])
        if segments.tags(paths):
            require_bytes(paths[key], headers[key])
    return {key: headers[key] for key in paths}


def _read_header(path: Path) -> idx.Header:
    if is_git_lfs_pointer(path):
        raise InputError(
            f"{path}: found a Git LFS pointer, expected the archive it stands for; fix: run `git lfs pull` in "
            f"{path.parent}"
        )
    return idx.read_header(path)


def require_same_images(path: Path, header: idx.Header, expected: idx.Header) -> None:
    """Raise InputError unless images have the shape and type of the (first) training archive's."""
    if (header.row_shape, header.dtype) != (expected.row_shape, expected.dtype):
        raise InputError(
            f"{path}: found images {header}, expected the shape and type of the training archive's, {expected}; "
            "fix: give archives of one data set"
        )


def require_bytes(path: Path, header: idx.Header) -> None:
    """Raise InputError unless images of a data set of several pairs are uint8."""
    if header.dtype != "u1":
        raise InputError(
            f"{path}: found images {header}, expected uint8 in a data set of several pairs, as other types are "
            "normalized by the extremes of all pairs; fix: give one pair"
        )
