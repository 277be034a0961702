"""Images in arrays: IDX archives, .npz and .npy, with their labels if there are any."""

from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from jobs.archive_labels import column_in
from jobs.convert import npz
from jobs.dataset import Manifest
from jobs.errors import InputError
from jobs.orientation import Orientation
from jobs.predict.arrays import as_stored, by_type, stored_shape
from jobs.predict.source import ALL, Batch, Share, Source, rebatched
from jobs.prepare import idx
from jobs.prepare.archives import image_shape
from jobs.prepare.labels import labels_in
from jobs.words import counted

ARRAYS = (".npz", ".npy")


def archive(
    path: Path,
    manifest: Manifest,
    batch_size: int,
    labels: Path | None = None,
    orientation: Orientation | None = None,
    share: Share = ALL,
) -> Source:
    """Return the images of an IDX archive, plain or gzip. `labels`: of an archive of their labels.

    Raises InputError for images that the model does not take, and unless there is a label for each.
    """
    header = idx.read_header(path)
    expected = stored_shape(manifest, orientation or manifest.orientation)
    if not header.row_shape or image_shape(header) != expected:
        raise InputError(
            f"{path}: found an archive of {header}, expected images of {' x '.join(map(str, expected))} (height x "
            "width x channels), as the model was trained on; fix: give images of this size, or choose another --model"
        )

    def prepared(block: NDArray[Any]) -> NDArray[Any]:
        return as_stored(block, manifest, orientation, str(path))

    known = rebatched(_labels(path, header, labels), batch_size) if labels else None
    return Source(
        title=str(path),
        key="row",
        total=share.rows(header.rows, batch_size),
        batches=_batches(rebatched(idx.read_blocks(path), batch_size), prepared, known, share),
        may_be_empty=share.number > 1,
    )


def _labels(images: Path, image_header: idx.Header, labels: Path) -> Iterator[NDArray[Any]]:
    header = idx.read_header(labels)
    if header.dtype.kind not in "iu" or len(header.shape) > 2 or header.rows != image_header.rows:
        raise InputError(
            f"--labels {labels}: found an archive of {header}, expected {counted(image_header.rows, 'label')}, one for "
            f"each image of {images}; fix: give the labels of these images"
        )
    column = column_in({"test_labels": labels}, {"test_labels": header}, None)
    return (labels_in(block, column) for block in idx.read_blocks(labels))


def arrays(
    path: Path,
    manifest: Manifest,
    batch_size: int,
    name: str | None = None,
    orientation: Orientation | None = None,
    share: Share = ALL,
) -> Source:
    """Return the images of a .npz or .npy, and their labels, if a .npz has them under a customary name.

    `name`: of the array in a .npz, None for the only one of the model's shape. Raises InputError as `archive` does.
    """
    shapes = npz.shapes(path)
    images = _chosen(path, shapes, manifest, name, orientation)
    where = f"{path}: {images}" if path.suffix.lower() == ".npz" else str(path)
    labels = sorted(each for each in npz.labels_of(images) & shapes.keys() if shapes[each] == shapes[images][:1])

    def prepared(block: NDArray[Any]) -> NDArray[Any]:
        return by_type(block, manifest, orientation, where)

    known = rebatched(npz.rows(path, labels[0]), batch_size) if labels else None
    return Source(
        title=where,
        key="row",
        total=share.rows(shapes[images][0], batch_size),
        batches=_batches(rebatched(npz.rows(path, images), batch_size), prepared, known, share),
        may_be_empty=share.number > 1,
    )


def _chosen(
    path: Path,
    shapes: dict[str, tuple[int, ...]],
    manifest: Manifest,
    name: str | None,
    orientation: Orientation | None,
) -> str:
    """Return the name of the array of images. Raises InputError unless exactly one may be meant."""
    listed = ", ".join(f"{each} ({' x '.join(map(str, shape))})" for each, shape in list(shapes.items())[:9]) or "none"
    if name is not None:
        if name not in shapes:
            raise InputError(
                f"--array {name}: found the arrays {listed} in {path}, expected one; fix: name one of these"
            )
        return name
    stored = stored_shape(manifest, orientation or manifest.orientation)
    forms = [stored, manifest.shape] + ([stored[:2], manifest.shape[:2]] if stored[2] == 1 else [])
    flat = (manifest.values_per_image,)
    fits = [each for each, shape in shapes.items() if shape[1:] in [*forms, flat]]
    if len(fits) != 1:
        expected = " x ".join(map(str, stored))
        fix = "choose one with --array" if fits else "give images of this size, or choose another --model"
        raise InputError(f"{path}: found the arrays {listed}, expected one of n x {expected}; fix: {fix}")
    return fits[0]


def _batches(
    images: Iterable[NDArray[Any]],
    prepared: Callable[[NDArray[Any]], NDArray[Any]],
    labels: Iterable[NDArray[Any]] | None,
    share: Share,
) -> Iterator[Batch]:
    """Yield the share's batches of images, and of their labels, which come in blocks of the same sizes."""
    first = 0
    known: Iterable[NDArray[Any] | None] = repeat(None) if labels is None else labels
    for number, (block, own) in enumerate(zip(images, known, strict=labels is not None)):
        if share.has(number):
            yield Batch(keys=range(first, first + len(block)), images=prepared(block), labels=own)
        first += len(block)
