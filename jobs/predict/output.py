"""Write predictions as CSV, JSON or Parquet, a batch of rows at a time.

CSV has a header, and quotes only where a value needs them. `.json` is one array, `.jsonl` an object per line.
Probabilities are written with the fewest digits that name the same float32.
"""

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from jobs.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".csv", ".json", ".jsonl", ".parquet")
_GROUP_ROWS = 65_536  # of a Parquet file: a few MB

Write = Callable[["pa.RecordBatch"], None]


def check(path: Path) -> None:
    """Raise InputError unless predictions can be written to a path."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"--out {path}: found no known suffix, expected {', '.join(SUFFIXES)}; fix: add one of them")
    if path.is_dir() or not path.absolute().parent.is_dir():
        found = "a folder" if path.is_dir() else f"no folder {path.parent}"
        raise InputError(f"--out {path}: found {found}, expected a file in an existing folder; fix: correct the path")


@contextmanager
def opened(path: Path, columns: "pa.Schema") -> Iterator[Write]:
    """Yield the function that writes rows to a new file, in the format of its suffix."""
    form = path.suffix.lower()
    if form == ".parquet":
        with _parquet(path, columns) as write:
            yield write
    else:
        text = {".csv": to_csv, ".json": _json, ".jsonl": _json_lines}[form]
        with path.open("w", encoding="utf-8", newline="") as file, text(file, columns) as write:
            yield write


@contextmanager
def _parquet(path: Path, columns: "pa.Schema") -> Iterator[Write]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    waiting: list[pa.RecordBatch] = []

    with pq.ParquetWriter(path, columns, compression="zstd") as file:

        def flush() -> None:
            file.write_table(pa.Table.from_batches(waiting, columns))
            waiting.clear()

        def write(rows: "pa.RecordBatch") -> None:
            waiting.append(rows)
            if sum(map(len, waiting)) >= _GROUP_ROWS:
                flush()

        yield write
        flush()


@contextmanager
def to_csv(file: TextIO, columns: "pa.Schema") -> Iterator[Write]:
    """Yield the function that writes rows to a text file as CSV, after a header."""
    lines = csv.writer(file, lineterminator="\n")
    lines.writerow(columns.names)
    yield lambda rows: lines.writerows(zip(*_values(rows), strict=True))


@contextmanager
def _json_lines(file: TextIO, columns: "pa.Schema") -> Iterator[Write]:
    yield lambda rows: file.writelines(f"{text}\n" for text in _objects(rows))


@contextmanager
def _json(file: TextIO, columns: "pa.Schema") -> Iterator[Write]:
    comma = ""

    def write(rows: "pa.RecordBatch") -> None:
        nonlocal comma
        for text in _objects(rows):
            file.write(f"{comma}\n{text}")
            comma = ","

    file.write("[")
    yield write
    file.write("\n]\n")


def _objects(rows: "pa.RecordBatch") -> Iterator[str]:
    for values in zip(*_values(rows), strict=True):
        yield json.dumps(dict(zip(rows.schema.names, values, strict=True)), ensure_ascii=False)


def _values(rows: "pa.RecordBatch") -> list[list[Any]]:
    """Return the values of each column. The float64 nearest to a float32 prints with digits that mean nothing."""
    import pyarrow as pa

    return [
        [float(text) for text in column.cast(pa.string()).to_pylist()]
        if pa.types.is_float32(column.type)
        else column.to_pylist()
        for column in rows.columns
    ]
