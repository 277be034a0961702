"""Read the file that states the group of each training row, such as the person who wrote it."""

import csv
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from jobs.archive import GZIP_MAGIC
from jobs.errors import InputError, one_line
from jobs.prepare import idx
from jobs.prepare.labels import LabelColumn


def read_groups(path: Path, column: str, rows: int, scratch: Path) -> NDArray[Any]:
    """Return the number of each row's group: int32 [rows], from 0, in the order of the groups' values.

    `path`: IDX of one or two dimensions, plain or gzip, or CSV in UTF-8, with or without a header. `column`: a number
    from 0, or a name in the header of a CSV. Raises InputError unless there is one group for each of `rows` rows.
    """
    with path.open("rb") as file:
        start = file.read(2)
    values = _from_idx(path, column, scratch) if start in (b"\0\0", GZIP_MAGIC) else _from_csv(path, column, rows)
    if len(values) != rows:
        raise InputError(
            f"{path}: found {len(values)} groups, expected {rows}, one per row of the training archive; fix: give the "
            "groups of that archive"
        )
    return values


def _from_idx(path: Path, column: str, scratch: Path) -> NDArray[Any]:
    plain = scratch / "groups"
    header = idx.inflate(path, plain)
    if len(header.shape) > 2 or header.dtype.kind not in "iu":
        raise InputError(
            f"{path}: found an archive of {header}, expected groups: integers of 1 or 2 dimensions; fix: give idx1 or "
            "idx2"
        )
    columns = header.row_shape[0] if header.row_shape else 1
    if not column.isdecimal() or int(column) >= columns:
        raise InputError(
            f"prepare.group_column: found {column}, expected a number from 0 to {columns - 1} for {path.name}; "
            "fix: set it"
        )
    labels = LabelColumn(plain, header, int(column))
    blocks = [block.astype(np.int32) for _, block in labels.blocks()]
    plain.unlink()
    values = np.concatenate(blocks) if blocks else np.empty(0, np.int32)
    return np.unique(values, return_inverse=True)[1].astype(np.int32)


def _from_csv(path: Path, column: str, rows: int) -> NDArray[Any]:
    with _reading(path) as file:
        lines = (line for line in csv.reader(file) if line)
        first = next(lines, [])
        position = _position(path, column, first)
        numbers: dict[str, int] = {}
        values = array("i")
        # Whether the first line is a header: a name says so, and else the number of lines does.
        for line in chain([first], lines) if first else ():
            if position >= len(line):
                raise InputError(
                    f"{path}: line {len(values) + 1}: found {len(line)} columns, expected more than {position}; fix: "
                    "correct that line"
                )
            values.append(numbers.setdefault(line[position], len(numbers)))
    has_header = not column.isdecimal() or len(values) == rows + 1
    return _renumbered(np.frombuffer(values, np.int32)[1 if has_header else 0 :], list(numbers))


def _position(path: Path, column: str, header: list[str]) -> int:
    if column.isdecimal():
        return int(column)
    names = [name.strip() for name in header]
    if column not in names:
        raise InputError(
            f"prepare.group_column: found {column!r}, expected a number or one of {', '.join(names)}, the columns of "
            f"{path.name}; fix: set it"
        )
    return names.index(column)


def _renumbered(values: NDArray[Any], texts: list[str]) -> NDArray[Any]:
    """Return values numbered in the order of their texts, whatever the order of the rows."""
    used = np.unique(values)
    order = sorted(used.tolist(), key=texts.__getitem__)
    numbers = np.zeros(len(texts) + 1, np.int32)
    numbers[order] = np.arange(len(order))
    return numbers[values]


@contextmanager
def _reading(path: Path) -> Iterator[IO[str]]:
    """Open a CSV file; turn its faults into InputErrors."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: cannot be read as CSV ({one_line(error)}), expected text in UTF-8; fix: give IDX or CSV"
        ) from error
