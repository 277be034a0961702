"""Read archives once, and keep what people look at: counts, statistics, mean images, samples."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.description import Description
from jobs.errors import InputError
from jobs.inspect.archives import Archives, Part
from jobs.label_options import ONE_HOT, Column
from jobs.orientation import Orientation
from jobs.prepare import idx
from jobs.prepare.labels import labels_in
from jobs.prepare.orientation import upright
from jobs.progress import Progress

LONGEST_SIDE = 128  # pixels of a picture that is kept: of larger images every n-th pixel
MOST_CLASSES = 40  # with pictures of their own: the most frequent
_PER_CLASS = 8  # samples, evenly spread over the archive
_UNLABELED = 40


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image: its row in the archive, its label if known, its pixels, float [height, width, channels] in [0, 1]."""

    row: int
    label: int | None
    pixels: NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Images:
    """What an archive of images has. Statistics are over all finite pixels, in stored units; pictures are in [0, 1].

    `class_means`: the mean image by label, of the most frequent classes. `samples`: by label, then by row.
    """

    path: Path
    header: idx.Header
    low: float
    high: float
    mean: float
    std: float
    not_finite: int
    constant: int
    mean_image: NDArray[Any]
    class_means: Mapping[int, NDArray[Any]]
    samples: list[Sample]


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What an archive of labels has. `counts`: images by label, sorted by label. `column`: of an idx2."""

    path: Path
    header: idx.Header
    column: Column
    counts: Mapping[int, int]

    @property
    def columns(self) -> str:
        """What they are counted by, if the archive is idx2."""
        return "one-hot column" if self.column == ONE_HOT else f"column {self.column}"


@dataclass(frozen=True, kw_only=True)
class Surveyed:
    """A part, read."""

    name: str
    images: Images | None = None
    labels: Labels | None = None


def survey(archives: Archives) -> list[Surveyed]:
    """Read all archives of a path, and turn their images upright. Raises InputError for a damaged archive.

    Memory does not grow with the number of images.
    """
    return [_survey(part, archives.description) for part in archives.parts]


def _survey(part: Part, description: Description) -> Surveyed:
    values: NDArray[Any] | None = None
    labels: Labels | None = None
    if part.labels:
        _check(part.labels, is_labels=True)
        table = idx.read(part.labels)
        used = description.column
        if used != ONE_HOT:
            used = min(used, table.shape[1] - 1) if table.ndim == 2 else 0
        values = labels_in(table, used)
        found, counts = np.unique(values, return_counts=True)
        labels = Labels(
            path=part.labels,
            header=idx.read_header(part.labels),
            column=used,
            counts=dict(zip(found.tolist(), counts.tolist(), strict=True)),
        )
    images = _survey_images(part.images, values, description.orientation) if part.images else None
    return Surveyed(name=part.name, images=images, labels=labels)


def _check(path: Path, *, is_labels: bool) -> None:
    """Raise InputError for labels that are no integers, and for images that are one number each."""
    header = idx.read_header(path)
    if header.dtype.kind not in "iu" if is_labels else not header.row_shape:
        raise InputError(
            f"{path}: found {header}, expected images or integer labels; fix: give an archive for a classifier"
        )


@dataclass(kw_only=True)
class _Sums:
    """Running sums over blocks of images."""

    values: int = 0
    total: float = 0.0
    squares: float = 0.0
    low: float = np.inf
    high: float = -np.inf
    not_finite: int = 0
    constant: int = 0
    by_label: dict[int | None, list[Any]] = field(default_factory=dict)  # number of images, and their sum

    def add(self, block: NDArray[Any]) -> None:
        """Add a block of images to the statistics."""
        flat = block.reshape(len(block), -1).astype(np.float64)
        self.constant += int((flat.min(axis=1) == flat.max(axis=1)).sum())
        finite = flat[np.isfinite(flat)]
        self.not_finite += flat.size - finite.size
        if finite.size:
            self.values += finite.size
            self.total += float(finite.sum())
            self.squares += float(np.square(finite).sum())
            self.low, self.high = min(self.low, float(finite.min())), max(self.high, float(finite.max()))

    def add_to_class(self, label: int | None, images: NDArray[Any]) -> None:
        """Add images to the mean image of their class."""
        entry = self.by_label.setdefault(label, [0, 0.0])
        entry[0] += len(images)
        entry[1] = entry[1] + np.nan_to_num(images.astype(np.float64)).sum(axis=0)


def _survey_images(path: Path, labels: NDArray[Any] | None, orientation: Orientation) -> Images:
    _check(path, is_labels=False)
    header = idx.read_header(path)
    wanted = _sample_rows(labels, header.rows)
    shown = {label for label, _ in wanted.values()}
    sums, kept = _Sums(), {}
    row = 0
    with Progress(f"reading {path.name}", header.rows, "images") as progress:
        for block in idx.read_blocks(path):
            sums.add(block)
            small = upright(thumbnails(block), orientation)
            for at in range(row, row + len(block)):
                if at in wanted:
                    kept[at] = small[at - row].astype(np.float64)
            sums.add_to_class(None, small)
            if labels is not None:
                part = labels[row : row + len(block)]
                for label in set(part.tolist()) & shown:
                    sums.add_to_class(label, small[part == label])
            row += len(block)
            progress.update(row)
    scale = _scale(header, sums)
    means = {label: scale(total / count) for label, (count, total) in sums.by_label.items()}
    mean = sums.total / sums.values if sums.values else 0.0
    return Images(
        path=path,
        header=header,
        low=sums.low if sums.values else 0.0,
        high=sums.high if sums.values else 0.0,
        mean=mean,
        std=float(np.sqrt(max(0.0, sums.squares / sums.values - mean**2))) if sums.values else 0.0,
        not_finite=sums.not_finite,
        constant=sums.constant,
        mean_image=means.pop(None, np.zeros((1, 1, 1))),
        class_means={label: means[label] for label in sorted(each for each in means if each is not None)},
        samples=[
            Sample(row=row, label=label, pixels=scale(kept[row]))
            for label, row in sorted(wanted.values())
            if row in kept
        ],
    )


def thumbnails(block: NDArray[Any]) -> NDArray[Any]:
    """Return images as [n, height, width, channels], every n-th pixel of large ones. A vector is one row high."""
    images = block[:, None] if block.ndim == 2 else block
    images = images[..., None] if images.ndim == 3 else images
    step = -(-max(images.shape[1:3]) // LONGEST_SIDE)
    return images[:, ::step, ::step]


def _scale(header: idx.Header, sums: _Sums) -> Any:
    """Return the function from stored pixels to [0, 1]: by 255 for bytes, else by the range of the archive."""
    low, extent = (0.0, 255.0) if header.dtype == np.uint8 else (sums.low, sums.high - sums.low)
    return lambda pixels: np.clip((np.nan_to_num(pixels) - low) / (extent if extent > 0 else 1.0), 0, 1)


def _sample_rows(labels: NDArray[Any] | None, rows: int) -> dict[int, tuple[Any, int]]:
    """Return the rows that are shown, each with its sort key: label and row. Without labels the label is None."""
    if labels is None:
        return {int(row): (None, int(row)) for row in _even(rows, _UNLABELED)}
    found, counts = np.unique(labels, return_counts=True)
    most = found[np.argsort(-counts, kind="stable")][:MOST_CLASSES]
    wanted: dict[int, tuple[Any, int]] = {}
    for label in most:
        of_class = np.flatnonzero(labels == label)
        wanted |= {int(of_class[at]): (int(label), int(of_class[at])) for at in _even(len(of_class), _PER_CLASS)}
    return wanted


def _even(total: int, most: int) -> NDArray[np.int64]:
    """Return at most `most` numbers below `total`, evenly spread."""
    count = min(total, most)
    return (np.arange(count) * total) // max(count, 1)
