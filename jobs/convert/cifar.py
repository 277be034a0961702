"""Read the binary version of CIFAR-10 or CIFAR-100, as a folder or as its .tar.gz.

A record is one byte of label (CIFAR-100: the coarse, then the fine label) and 3072 bytes of pixels: the red, the green
and the blue plane of 32 x 32, row by row (source: https://www.cs.toronto.edu/~kriz/cifar.html).
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from jobs.convert.entries import Entry, entries
from jobs.convert.options import Options, Split
from jobs.convert.tables import Block, Table
from jobs.errors import InputError
from jobs.words import counted

_PIXELS = 3 * 32 * 32
_MOST_BYTES = 200 << 20  # CIFAR-100's train.bin has 154 MB
_NAMES = {"batches.meta.txt": "label", "coarse_label_names.txt": "coarse", "fine_label_names.txt": "fine"}
_HUNDRED: dict[str, Split] = {"train.bin": "train", "test.bin": "test"}
_ROWS = 2048


def is_file_of(path: str) -> bool:
    """Return whether a path is that of a data file of CIFAR's binary version."""
    name = PurePosixPath(path).name
    return name in _HUNDRED or _split_of_ten(name) is not None


def table(source: Path, options: Options) -> Table:
    """Return the table of a folder or a tar. `options.label`: "fine" (the default) or "coarse", for CIFAR-100."""
    if options.label not in (None, "fine", "coarse"):
        raise InputError(
            f"--label: found {options.label}, expected fine or coarse for CIFAR-100; fix: give one of them"
        )
    names: dict[int, str] = {}  # filled while the blocks are read
    return Table(blocks=_blocks(source, options.label or "fine", names), class_names=names, is_bytes=True)


def _split_of_ten(name: str) -> Split | None:
    if name == "test_batch.bin":
        return "test"
    return "train" if name.startswith("data_batch_") and name.endswith(".bin") else None


def _blocks(source: Path, label: str, names: dict[int, str]) -> Iterator[Block]:
    kinds: set[bool] = set()
    for entry in entries(source, _MOST_BYTES):
        name = PurePosixPath(entry.path).name
        if _NAMES.get(name) in ("label", label):
            lines = entry.data.decode(errors="replace").split("\n")
            names.update(enumerate(line.strip() for line in lines if line.strip()))
        if is_file_of(entry.path):
            kinds.add(name in _HUNDRED)
            if len(kinds) > 1:
                raise InputError(
                    f"{source}: found CIFAR-10 and CIFAR-100, expected one of them; fix: move one into its own folder"
                )
            yield from _records(source, entry, label)
    if not kinds:
        raise InputError(
            f"{source}: found no data_batch_1.bin or train.bin, expected CIFAR's binary version; fix: get it"
        )


def _records(source: Path, entry: Entry, label: str) -> Iterator[Block]:
    name = PurePosixPath(entry.path).name
    is_hundred = name in _HUNDRED
    size = _PIXELS + (2 if is_hundred else 1)
    if entry.fault or len(entry.data) % size:
        found = entry.fault or f"{counted(len(entry.data), 'byte')}"
        raise InputError(
            f"{source}: {entry.path}: found {found}, expected records of {size:,} bytes; fix: get it again"
        )
    records = np.frombuffer(entry.data, np.uint8).reshape(-1, size)
    column = 1 if is_hundred and label == "fine" else 0
    for start in range(0, len(records), _ROWS):
        part = records[start : start + _ROWS]
        yield Block(
            split=_HUNDRED[name] if is_hundred else _split_of_ten(name) or "train",
            images=part[:, -_PIXELS:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1),
            classes=part[:, column].tolist(),
            position=name,
        )
