"""Read images and labels from NumPy files, and write a .npz. They are read in blocks of rows; nothing is unpickled."""

import lzma
import math
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from jobs.convert.labels import Value
from jobs.convert.options import Options, Split
from jobs.convert.tables import Block, Table, by
from jobs.errors import InputError, one_line
from jobs.words import counted

# The names that people give the arrays of a split: images, labels.
_NAMES: Mapping[Split, tuple[tuple[str, str], ...]] = {
    "train": (
        ("x_train", "y_train"),
        ("train_images", "train_labels"),
        ("X_train", "Y_train"),
        ("images", "labels"),
        ("x", "y"),
        ("X", "y"),
        ("data", "target"),
        ("data", "labels"),
        ("arr_0", "arr_1"),
    ),
    "test": (("x_test", "y_test"), ("test_images", "test_labels"), ("X_test", "Y_test")),
}
_VALIDATION = (("x_val", "y_val"), ("val_images", "val_labels"), ("x_validation", "y_validation"))
_BLOCK = 1 << 20
_LARGEST_ROW = 1 << 28
WRITTEN: Mapping[Split, tuple[str, str]] = {"train": ("x_train", "y_train"), "test": ("x_test", "y_test")}
_EPOCH = (1980, 1, 1, 0, 0, 0)  # zip's earliest time: the same arrays give the same bytes


def table(source: Path, options: Options) -> Table:
    """Return the table of a .npz. Raises InputError if its arrays are not known by name."""
    with _opened(source) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        pairs = _pairs(source, names, options)
        rows = sum(_shape(archive, images, source)[0] for _, images, _ in pairs)
    return Table(blocks=_blocks(source, pairs), rows=rows)


def _pairs(source: Path, names: list[str], options: Options) -> list[tuple[Split, str, str]]:
    """Return split, name of the images and name of the labels of each pair in the file."""
    pairs = []
    for split, known in _NAMES.items():
        pair = next((each for each in known if set(each) <= set(names)), None)
        if pair:
            pairs.append((split, *pair))
    validation = next((each for each in _VALIDATION if set(each) <= set(names)), None)
    if validation and options.validation in ("train", "test"):
        pairs.append((options.validation, *validation))
    elif validation and options.validation is None:
        raise InputError(
            f"{source}: found {validation[0]}, expected a training and a test split, as IDX has no third; fix: choose "
            "what it becomes with --validation train, test or omit"
        )
    if not pairs:
        raise InputError(
            f"{source}: found the arrays {', '.join(names[:9])}, expected x_train and y_train (x_test, y_test), "
            "or images and labels; fix: save them under these names"
        )
    return pairs


def _blocks(source: Path, pairs: list[tuple[Split, str, str]]) -> Iterator[Block]:
    with _opened(source) as archive:
        for split, images, labels in pairs:
            classes = _classes(archive, labels, source)
            count = _shape(archive, images, source)[0]
            if count != len(classes):
                raise InputError(
                    f"{source}: found {counted(count, 'image')} in {images} and {counted(len(classes), 'label')} in "
                    f"{labels}, "
                    "expected one label each; fix: save both of one split"
                )
            row = 0
            for block in _rows(archive, images, source):
                if block.dtype.kind in "US":
                    raise InputError(f"{source}: found {images} of text, expected pixels; fix: save them as numbers")
                yield Block(split=split, images=block, classes=classes[row : row + len(block)])
                row += len(block)


def shapes(source: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each array of numbers or text in a .npz, or of the one in a .npy, by name."""
    if source.suffix.lower() == ".npy":
        with _opened_npy(source) as file:
            return {source.stem: _header(file, source.name, source)[0]}
    result = {}
    with _opened(source) as archive:
        for name in (each.removesuffix(".npy") for each in archive.namelist()):
            with suppress(InputError):  # another kind of array is not an image
                result[name] = _shape(archive, name, source)
    return result


def rows(source: Path, name: str) -> Iterator[NDArray[Any]]:
    """Yield the rows of an array that `shapes` names, in blocks of about 1 MiB. Raises InputError for a damaged one."""
    if source.suffix.lower() == ".npy":
        with _opened_npy(source) as file:
            yield from _blocks_of(file, os.fstat(file.fileno()).st_size, source.name, source)
    else:
        with _opened(source) as archive:
            yield from _rows(archive, name, source)


def labels_of(images: str) -> set[str]:
    """Return the names that the labels of an array of images customarily have."""
    pairs = [*chain.from_iterable(_NAMES.values()), *_VALIDATION]
    return {labels for name, labels in pairs if name == images}


def _classes(archive: zipfile.ZipFile, name: str, source: Path) -> list[Value]:
    labels = np.concatenate(list(_rows(archive, name, source)) or [np.empty(0, np.int64)])
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind == "f" and (labels == np.rint(labels)).all():
        labels = labels.astype(np.int64)
    if labels.ndim != 1 or labels.dtype.kind not in "iubUS":
        raise InputError(
            f"{source}: found {name} of {labels.dtype} and shape {by(labels.shape)}, expected one integer or text per "
            "image; fix: save labels as numbers, not one-hot"
        )
    try:
        values = np.char.decode(labels, "utf-8") if labels.dtype.kind == "S" else labels
    except UnicodeDecodeError as error:
        raise InputError(
            f"{source}: found a label in {name} that is not UTF-8 ({one_line(error)}); fix: save it as text"
        ) from error
    values = values.astype(np.int64) if values.dtype.kind == "b" else values
    return list(values.tolist())


def _shape(archive: zipfile.ZipFile, name: str, source: Path) -> tuple[int, ...]:
    with _reading(archive, name, source) as file:
        return _header(file, name, source)[0]


def _rows(archive: zipfile.ZipFile, name: str, source: Path) -> Iterator[NDArray[Any]]:
    with _reading(archive, name, source) as file:
        entry = archive.getinfo(f"{name}.npy")
        # Deflate shrinks to a 1032nd at most (source: zlib's "Technical Details"): the entry's own size may be a lie.
        stored = entry.compress_size * (1032 if entry.compress_type == zipfile.ZIP_DEFLATED else 1)
        can_be = entry.file_size if entry.compress_type > zipfile.ZIP_DEFLATED else min(entry.file_size, stored)
        yield from _blocks_of(file, can_be, name, source)


def _blocks_of(file: IO[bytes], size: int, name: str, source: Path) -> Iterator[NDArray[Any]]:
    """Yield the rows of an array in blocks of about 1 MiB; a Fortran-ordered array is one block.

    `size`: the most bytes that the file can have. An array that would be longer is refused before memory is asked for.
    """
    shape, is_fortran, dtype = _header(file, name, source)
    row = math.prod(shape[1:]) * dtype.itemsize
    if row > _LARGEST_ROW:
        raise InputError(f"{source}: found rows over {_LARGEST_ROW:,} bytes in {name} ({row:,}); fix: save it again")
    if shape[0] * row > size:
        raise InputError(
            f"{source}: found the end of {name} too early, expected {shape[0] * row:,} bytes of values; fix: save the "
            "file again"
        )
    step = shape[0] if is_fortran else max(1, _BLOCK // max(row, 1))
    for start in range(0, shape[0], max(step, 1)):
        count = min(step, shape[0] - start)
        data = file.read(count * row)
        if len(data) < count * row:
            raise InputError(f"{source}: found the end of {name} too early; fix: save the file again")
        block = np.frombuffer(data, dtype)
        shaped = block.reshape(shape[::-1]).T if is_fortran else block.reshape(count, *shape[1:])
        yield shaped.astype(dtype.newbyteorder("="), copy=False)


def _header(file: IO[bytes], name: str, source: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, whether columns come first, and type of an array. Raises InputError for a pickle."""
    try:
        version = np.lib.format.read_magic(file)  # type: ignore[no-untyped-call]
        reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
        shape, is_fortran, dtype = reader(file) if reader else ((), False, np.dtype("u1"))  # type: ignore[no-untyped-call]
    except (SyntaxError, TokenError, TypeError, RecursionError, MemoryError) as error:  # NumPy parses it as Python
        raise InputError(
            f"{source}: found a damaged header of {name} ({one_line(error)}); fix: save it again"
        ) from error
    if reader is None:
        raise InputError(f"{source}: found .npy version {version} in {name}, expected 1.0 or 2.0; fix: save it again")
    if dtype.hasobject or dtype.fields or dtype.kind not in "biufUS" or not shape:
        raise InputError(f"{source}: found {name} of {dtype}, expected an array of numbers; fix: save it as such")
    return shape, is_fortran, dtype


@contextmanager
def _opened(source: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(source) as archive:
            yield archive
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
        raise InputError(f"{source}: cannot be read as .npz ({one_line(error)}); fix: save it again") from error


@contextmanager
def _opened_npy(source: Path) -> Iterator[IO[bytes]]:
    try:
        with source.open("rb") as file:
            yield file
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"{source}: cannot be read as .npy ({one_line(error)}); fix: save it again") from error


@contextmanager
def _reading(archive: zipfile.ZipFile, name: str, source: Path) -> Iterator[IO[bytes]]:
    try:
        with archive.open(f"{name}.npy") as file:
            yield file
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError, zlib.error, lzma.LZMAError, RuntimeError) as error:
        raise InputError(f"{source}: found damaged data in {name} ({one_line(error)}); fix: save it again") from error


def write(path: Path, arrays: Mapping[str, tuple[tuple[int, ...], np.dtype[Any], Iterable[NDArray[Any]]]]) -> None:
    """Write a compressed .npz of arrays, each given as its shape, its type and blocks of its rows."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, (shape, dtype, blocks) in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            native = dtype.newbyteorder("<")
            with archive.open(entry, "w", force_zip64=True) as file:
                header = {"descr": native.str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)  # type: ignore[no-untyped-call]
                for block in blocks:
                    file.write(np.ascontiguousarray(block, native).tobytes())
