"""Write a conversion's IDX archives, and what is known beside them: class names, and the file of each image."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jobs.convert.collected import Bad, Collected
from jobs.convert.options import Options, Split
from jobs.convert.staging import Staging
from jobs.errors import InputError, printable
from jobs.files import sha256_file, write_atomic, write_text
from jobs.pictures import CHECKSUMS, COLUMNS, SOURCES
from jobs.prepare import idx
from jobs.progress import Progress

DESCRIPTION = "data.toml"  # class names; `fetch` reads it
SKIPPED = "skipped.csv"  # the files left out, with --skip-bad

_BAD = ("path", "reason")
_STEMS: Mapping[Split, str] = {"train": "train", "test": "t10k"}
_WORDS = {"uint8": "ubyte", "int8": "byte", "int16": "short", "int32": "int", "float32": "float", "float64": "double"}
# Numbers that use less than half of a byte's range, such as 0 to 16: stored as bytes they would train as if dark.
_HALF = 128
_LONGEST_NAME = 100  # characters, as fetch takes them


def write_archives(folder: Path, collected: Collected, options: Options) -> np.dtype[Any]:
    """Write images and labels of each split, data.toml, and the list of pictures; return the type of the pixels.

    The list is in two files: see `jobs.pictures`. Raises InputError if the type that the options name cannot hold the
    pixels.
    """
    dtype = element_type(collected, options)
    total = sum(map(len, collected.order.values()))
    done = 0
    with Progress("writing archives", total, "images") as progress:
        for split, order in collected.order.items():
            shape = _without_gray_axis(collected.staging.shape)
            header = idx.Header(dtype.newbyteorder(">"), (len(order), *shape))

            def blocks(rows: Any = order, shape: tuple[int, ...] = shape) -> Any:
                nonlocal done
                for block in collected.staging.read(rows, dtype):
                    yield block.reshape(-1, *shape)
                    done += len(block)
                    progress.update(done)

            idx.write_blocks(_path(folder, split, "images", dtype, len(header.shape), options), header, blocks())
            labels = collected.labels[split]
            kind = np.dtype(np.uint8 if labels.min() >= 0 and labels.max() <= 255 else np.int32)
            idx.write(_path(folder, split, "labels", kind, 1, options), labels.astype(kind))
    if collected.class_names:
        write_text(folder / DESCRIPTION, description(collected.class_names))
    if collected.sources:
        _write_sources(folder / SOURCES, collected)
        archives = sorted(folder.glob("*-idx*"))
        write_text(folder / CHECKSUMS, "".join(f"{sha256_file(path)}  {path.name}\n" for path in archives))
    return dtype


def element_type(collected: Collected, options: Options) -> np.dtype[Any]:
    """Return the type that the pixels get in the archives.

    Pictures keep theirs: uint8, or int32 for 16 bits, as IDX has no uint16. Numbers get the narrowest type that holds
    them, but int16 instead of uint8 if they use less than half of its range: `prepare` scales bytes by 255, and other
    types by the range of the training images. Raises InputError if `options.element_type` cannot hold the values.
    """
    staging = collected.staging
    if options.element_type is None:
        is_dark = staging.dtype == np.uint8 and staging.high < _HALF
        return np.dtype(np.int16) if collected.is_numbers and is_dark else staging.dtype
    wanted = np.dtype(options.element_type)
    if not _holds(wanted, staging):
        raise InputError(
            f"--type {wanted.name}: found {staging.dtype.name} from {staging.low:g} to {staging.high:g}, expected "
            "values that it holds; fix: choose a wider type, or leave out --type"
        )
    return wanted


def _holds(wanted: np.dtype[Any], staging: Staging) -> bool:
    """Return whether a type holds the staged values; floats may be rounded to another float type."""
    if wanted.kind == "f":
        return staging.dtype.kind == "f" or np.can_cast(staging.dtype, wanted)
    bounds = np.iinfo(wanted)
    return staging.dtype.kind != "f" and bounds.min <= staging.low and staging.high <= bounds.max


def description(class_names: Mapping[int, str]) -> str:
    """Return the text of data.toml: the name of each class by its label."""
    # A JSON string without control characters is a TOML string.
    lines = [f"{label} = {json.dumps(name, ensure_ascii=False)}" for label, name in _printed(class_names).items()]
    return "\n".join(["# Names of classes by label, which `idxtrain run --data` shows.", "[class_names]", *lines, ""])


def _printed(class_names: Mapping[int, str]) -> dict[int, str]:
    """Return names as data.toml may have them: on one line, not blank, at most 100 characters, each once."""
    names: dict[int, str] = {}
    for label, name in class_names.items():
        text = printable(name)[:_LONGEST_NAME].strip() or str(label)
        names[label] = f"{text[: _LONGEST_NAME - 20]} ({label})" if text in names.values() else text
    return names


def write_bad(path: Path, bad: Sequence[Bad]) -> None:
    """Write the list of unusable files as CSV: path and reason, one line each."""
    _write_csv(path, _BAD, [(printable(each.path), each.reason) for each in bad])


def is_list_of_bad(path: Path) -> bool:
    """Return whether a file is a list that `write_bad` wrote."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.readline() == f"{','.join(_BAD)}\n"
    except OSError:
        return False


def _write_sources(path: Path, collected: Collected) -> None:
    rows = [
        (_STEMS[split], place, printable(collected.sources[row]))
        for split, order in collected.order.items()
        for place, row in enumerate(order.tolist())
    ]
    _write_csv(path, COLUMNS, rows)


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header)
            writer.writerows(rows)

    write_atomic(path, write)


def _without_gray_axis(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the row shape in the archive: gray images are idx3, color images idx4."""
    return shape[:2] if shape[2:] == (1,) else shape


def _path(folder: Path, split: Split, kind: str, dtype: np.dtype[Any], dimensions: int, options: Options) -> Path:
    name = f"{_STEMS[split]}-{kind}-idx{dimensions}-{_WORDS[dtype.name]}"
    return folder / (name if options.plain else f"{name}.gz")
