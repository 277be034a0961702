"""Read the file that states the group of each training row, such as the person who wrote it."""

import csv
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from jobs.archive import GZIP_MAGIC
from jobs.csv_cells import is_number
from jobs.errors import InputError, one_line
from jobs.prepare import idx
from jobs.prepare.labels import LabelColumn
from jobs.words import counted


def read_groups(path: Path, column: str, rows: int, scratch: Path) -> NDArray[Any]:
    """Return the number of each row's group: int32 [rows], from 0, in the order of the groups' values.

    `path`: IDX of one or two dimensions, plain or gzip, or CSV in UTF-8, with or without a header. `column`: a number
    from 0, or a name in the header of a CSV, which is needed if its first group is a text that occurs once. Raises
    InputError unless there is one group for each of `rows` rows.
    """
    with path.open("rb") as file:
        start = file.read(2)
    values = _from_idx(path, column, scratch) if start in (b"\0\0", GZIP_MAGIC) else _from_csv(path, column, rows)
    if len(values) != rows:
        raise InputError(
            f"{path}: found {counted(len(values), 'group', 'd')}, expected {rows}, one per row of the training "
            "archive; fix: give the groups of that archive"
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
    numbers: dict[str, int] = {}
    cells = array("i")
    with _reading(path) as file:
        reader = csv.reader(file)
        position = blank = None
        for line in reader:
            if len(line) < 2 and not "".join(line).strip():
                blank = blank or reader.line_num
                continue
            if blank:  # lines at the end may be blank; one between rows would shift all groups after it
                raise InputError(f"{path}: line {blank}: found a blank line, expected a group; fix: correct that line")
            position = _position(path, column, line) if position is None else position
            if position >= len(line):
                raise InputError(
                    f"{path}: line {reader.line_num}: found {counted(len(line), 'column')}, expected more than "
                    f"{position}; fix: correct that line"
                )
            cells.append(numbers.setdefault(line[position], len(numbers)))
    values, texts = np.frombuffer(cells, np.int32), list(numbers)
    return _renumbered(values[1 if _has_header(path, column, rows, values, texts) else 0 :], texts)


def _has_header(path: Path, column: str, rows: int, values: NDArray[Any], texts: list[str]) -> bool:
    """Return whether the first line is a header. Raises InputError if it may be one in place of a row.

    A name as the column means that there is one. Else the first line is one if its cell is no number and occurs once,
    and if the file has one more line than rows. With as many lines as rows, all groups might be shifted by one.
    """
    if not column.isdecimal():
        return True
    may_be = len(values) > 0 and not is_number(texts[0]) and np.count_nonzero(values == values[0]) == 1
    if may_be and len(values) == rows:
        raise InputError(
            f"{path}: found {counted(rows - 1, 'group', 'd')} under {texts[0]!r}, which may be a header, expected "
            f"{rows}; fix: give a group for each row of the training archive, a header, and its name as "
            "prepare.group_column"
        )
    return may_be and len(values) == rows + 1


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
