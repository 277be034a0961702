"""Convert IDX archives back: to PNG files in folders by class, or to a NumPy .npz. Images stay as they are stored."""

import io
import os
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs import png
from jobs.convert import npz
from jobs.convert.options import Split
from jobs.errors import InputError, printable
from jobs.inspect.archives import archives
from jobs.prepare import idx
from jobs.progress import Progress

_MOST = 65535  # of a 16-bit PNG
_LONGEST = 100  # bytes of a folder's name; file systems allow 255, some encrypted ones 143
Pair = tuple[Path, Path]  # images, labels


def to_png(pairs: Mapping[Split, Pair], folder: Path, class_names: Mapping[int, str]) -> dict[Split, int]:
    """Write `SPLIT/CLASS/ROW.png`, ROW being the row in the archive; return the number of images of each split.

    uint8 becomes PNGs of 8 bits, other integers PNGs of 16 bits. A class's folder has its name; if some name cannot be
    a folder's, all have their labels. Raises InputError for pixels that PNG cannot hold.
    """
    counts = {}
    labels_of = {split: idx.read(labels) for split, (_, labels) in pairs.items()}
    folders = _folders(np.concatenate(list(labels_of.values())), class_names)
    for split, (images, _) in pairs.items():
        classes = labels_of[split]
        for label in np.unique(classes).tolist():
            (folder / split / folders[label]).mkdir(parents=True)
        digits = max(6, len(str(len(classes))))
        with Progress(f"writing {split}", len(classes), "pictures") as progress:
            for row, (pixels, label) in enumerate(zip(_images(images), classes.tolist(), strict=True)):
                path = folder / split / folders[label] / f"{row:0{digits}}.png"
                path.write_bytes(encode(pixels, images))
                progress.update(row)
        counts[split] = len(classes)
    return counts


def to_npz(pairs: Mapping[Split, Pair], path: Path) -> dict[Split, int]:
    """Write the arrays x_train, y_train, x_test and y_test; return the number of images of each split."""
    arrays = {}
    counts = {}
    for split, (images, labels) in pairs.items():
        header = idx.read_header(images)
        classes = idx.read(labels)
        counts[split] = header.rows
        x, y = npz.WRITTEN[split]
        arrays[x] = header.shape, header.dtype, idx.read_blocks(images)
        arrays[y] = classes.shape, classes.dtype, iter([classes])
    npz.write(path, arrays)
    return counts


def pairs_of(folder: Path) -> tuple[dict[Split, Pair], Mapping[int, str]]:
    """Return images and labels of each split in a folder, and the names of its classes by label.

    Raises InputError unless there are images and as many labels of one column, in at most one pair for each split.
    """
    found = archives(folder)
    pairs: dict[Split, Pair] = {}
    for part in found.parts:
        split: Split = "test" if part.name == "test" else "train"
        if part.images and part.labels and part.name in ("training", "test"):
            idx.check_pair(part.images, idx.read_header(part.images), part.labels, idx.read_header(part.labels))
            pairs[split] = part.images, part.labels
    if not pairs or len(pairs) < len(found.parts):
        listed = printable(", ".join(part.name for part in found.parts))
        raise InputError(
            f"{folder}: found {listed}, expected images and labels of one training or test split; fix: "
            + (found.refusal or "move any others out of the folder")
        )
    return pairs, found.description.class_names


def encode(pixels: NDArray[Any], path: Path) -> bytes:
    """Return the PNG of an image [height, width, channels]. `path`: the archive, for errors."""
    if pixels.shape[2] not in (1, 3):
        raise InputError(f"{path}: found {pixels.shape[2]} channels, expected 1 or 3 for PNG; fix: convert to .npz")
    if pixels.dtype == np.uint8:
        return _eight_bits(pixels)
    if pixels.dtype.kind != "i" or pixels.min() < 0 or pixels.max() > _MOST:
        raise InputError(
            f"{path}: found {pixels.dtype.name} from {pixels.min():g} to {pixels.max():g}, expected integers from 0 to "
            f"{_MOST} for PNG; fix: convert to .npz"
        )
    return png.encode(pixels.astype(np.uint16))


def _eight_bits(pixels: NDArray[Any]) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG", compress_level=6)
    return file.getvalue()


def _images(path: Path) -> Iterator[NDArray[Any]]:
    """Yield the images of an archive, [height, width, channels]."""
    for image in chain.from_iterable(idx.read_blocks(path)):
        yield image.reshape(*image.shape[:2], -1) if image.ndim > 1 else image.reshape(1, -1, 1)


def _folders(classes: NDArray[Any], class_names: Mapping[int, str]) -> dict[int, str]:
    """Return the folder of each label: the class's name, if all names can be folders, and differ, else the label."""
    labels = sorted(set(classes.tolist()))
    names = [class_names.get(label, str(label)) for label in labels]
    if all(map(_can_be_folder, names)) and len({name.casefold() for name in names}) == len(names):
        return dict(zip(labels, names, strict=True))
    return {label: str(label) for label in labels}


def _can_be_folder(name: str) -> bool:
    return bool(name) and "/" not in name and "\0" not in name and name[0] != "." and len(os.fsencode(name)) < _LONGEST
