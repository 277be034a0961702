"""Read images from CSV: one image per row, its class in one column, its pixels in all others.

Values may be quoted; the first line may be a header. Every row must have the same number of values, all finite numbers
but the class. Lines without any value are skipped. A file may be gzip; one that ends with .tsv has tabs for commas.
"""

import csv
import gzip
import io
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from jobs.archive import is_gzip
from jobs.convert.layout import split_files
from jobs.convert.options import Options, Split
from jobs.convert.tables import Block, Table
from jobs.csv_cells import is_number
from jobs.errors import InputError, one_line, printable
from jobs.words import counted

SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
_LABELS = ("label", "class", "target", "y")  # names that a header may give the column of the class
_ROWS = 256  # per block
_LONGEST = 64 << 20  # characters of a line


@dataclass(frozen=True)
class Layout:
    """Where a CSV file has the class, and how many columns there are. `is_guess`: nobody named the class's column."""

    label: int
    columns: int
    is_guess: bool


def table(source: Path, options: Options) -> Table:
    """Return the table of a CSV file, or of a folder of them, whose names say train or test."""
    is_file = source.is_file()
    paths = [source] if is_file else sorted(each for each in source.iterdir() if each.name.lower().endswith(SUFFIXES))
    splits = split_files(paths, options, "train" if is_file else None)
    return Table(blocks=(block for path, part in splits.items() for block in read(path, part, options)))


def read(path: Path, part: Split, options: Options) -> Iterator[Block]:
    """Yield the rows of a CSV file in blocks. Raises InputError, which names the line."""
    with _text(path) as file:
        rows = parse(_lines(file, path), options.label, str(path), "\t" if ".tsv" in path.name.lower() else ",")
        for labels, pixels in rows:
            yield Block(split=part, images=pixels, classes=list(labels))


def parse(
    lines: Iterable[str], label: str | None, name: str, delimiter: str = ","
) -> Iterator[tuple[list[str], NDArray[Any]]]:
    """Yield the classes and the pixels of CSV lines: int64, or float32 for decimals, [n, columns - 1].

    `label`: the name or number of the class's column; negative numbers count from the end. None: the column that the
    header calls label, class, target or y; without a header the first. Raises InputError.
    """
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    layout: Layout | None = None
    labels: list[str] = []
    pixels: list[NDArray[Any]] = []
    classes: set[str] = set()
    for row in _rows(reader, name):
        if layout is None:
            layout, is_header = _layout(row, label, name)
            if is_header:
                continue
        where = f"{name}: line {reader.line_num}"
        if len(row) != layout.columns:
            raise InputError(
                f"{where}: found {counted(len(row), 'value')}, expected {layout.columns} as before; fix: repair the "
                "line"
            )
        labels.append(_class(row.pop(layout.label), where))
        pixels.append(_numbers(row, where))
        if len(labels) == _ROWS:
            classes.update(labels)
            yield labels, _stacked(pixels)
            labels, pixels = [], []
    classes.update(labels)
    if not classes:
        raise InputError(f"{name}: found no rows, expected one image per line; fix: give a CSV file of images")
    if layout and layout.is_guess and len(classes) == 1:
        raise InputError(
            f"{name}: found the class {classes.pop()} in every row of the first column, expected several; "
            "fix: name the column of the class, e.g. --label -1 for the last"
        )
    if labels:
        yield labels, _stacked(pixels)


def _text(path: Path) -> TextIO:
    raw: Any = gzip.GzipFile(path) if is_gzip(path) else path.open("rb")
    return io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")


def _lines(file: TextIO, path: Path) -> Iterator[str]:
    try:
        while line := file.readline(_LONGEST):
            if len(line) == _LONGEST:
                raise InputError(f"{path}: found a line of more than {_LONGEST:,} characters; fix: give a CSV file")
            yield line
    except (UnicodeDecodeError, EOFError, OSError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read as CSV ({one_line(error)}); fix: give UTF-8 text") from error


def _rows(reader: Any, name: str) -> Iterator[list[str]]:
    try:
        yield from (row for row in reader if any(map(str.strip, row)))
    except csv.Error as error:
        raise InputError(f"{name}: line {reader.line_num}: found no CSV ({error}); fix: repair the line") from error


def _layout(first: Sequence[str], label: str | None, name: str) -> tuple[Layout, bool]:
    """Return the layout that the first line shows, and whether that line is a header."""
    if len(first) < 2:
        raise InputError(f"{name}: found one column, expected a class and pixels; fix: give a CSV with commas")
    names = [each.strip() for each in first]
    number = _index(label, len(first))
    if label is not None and number is None and label not in names:
        listed = ", ".join(map(printable, names[:5]))
        raise InputError(f"{name}: found no column {label} among {listed}, …, expected one; fix: name one with --label")
    column = number if number is not None else names.index(label) if label is not None else _named(names)
    rest = [each for place, each in enumerate(names) if place != (column or 0)]
    has_word = names[column or 0].lower() in _LABELS and len(set(names)) == len(names)  # pixels may be named by numbers
    is_header = (label is not None and number is None) or has_word or not all(map(is_number, rest))
    if is_header and column is None:
        raise InputError(
            f"{name}: found a header without a column {', '.join(_LABELS)}, expected one; fix: name it with --label"
        )
    return Layout(column or 0, len(first), column is None), is_header


def _index(label: str | None, columns: int) -> int | None:
    """Return the column that a number names, from 0; None if it is not a number of a column."""
    try:
        number = int(label or "")
    except ValueError:
        return None
    return number % columns if -columns <= number < columns else None


def _named(names: Sequence[str]) -> int | None:
    lower = [name.lower() for name in names]
    return next((lower.index(name) for name in _LABELS if name in lower), None)


def _class(text: str, where: str) -> str:
    if not text.strip():
        raise InputError(f"{where}: found no class, expected a label; fix: repair the line")
    return text.strip()


def _numbers(row: list[str], where: str) -> NDArray[Any]:
    """Return a row of pixels: int64, or float64 if any is a decimal."""
    joined = "".join(row)
    try:
        if "_" in joined or not joined.isascii():  # Python's numbers may have them, CSV's do not
            raise ValueError
        try:
            return np.array(list(map(int, row)), np.int64)
        except (ValueError, OverflowError):
            values = np.array(list(map(float, row)))
    except ValueError:
        at = next((text for text in row if not is_number(text) or "_" in text or not text.isascii()), "")
        raise InputError(f"{where}: found {printable(at)!r}, expected a number; fix: repair the line") from None
    if not np.isfinite(values).all():
        raise InputError(f"{where}: found a value that is not finite, expected numbers; fix: repair the line")
    return values


def _stacked(rows: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return rows as one array: int64 if all values are whole, else the nearest float32."""
    values = np.stack(rows)
    if values.dtype.kind == "i":
        return values
    whole = np.rint(values)
    is_whole = (values == whole).all() and np.abs(values).max() < 2**53
    return whole.astype(np.int64) if is_whole else values.astype(np.float32)
