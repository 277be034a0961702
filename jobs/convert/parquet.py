"""Read a Parquet table of images, as the Hugging Face hub has them: a file, or a folder of train-… and test-… files.

An image is a picture file's bytes (a column of binary, or of {bytes, path}), or a list of numbers, nested or flat. Its
class is an integer or text. Hugging Face's schema metadata name the columns and the classes.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jobs.convert import pictures, tables
from jobs.convert.collected import Collected, collected
from jobs.convert.entries import MOST_BYTES, Entry
from jobs.convert.labels import Value
from jobs.convert.layout import split_files
from jobs.convert.options import Options, Split
from jobs.convert.staging import Staging
from jobs.convert.tables import Block, Table
from jobs.errors import InputError, one_line

_IMAGES = ("image", "img", "picture", "pixels", "pixel_values")
_LABELS = ("label", "labels", "fine_label", "class", "target")
_ROWS = 256  # read at a time


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns of a Parquet file are read. `class_names`: by label. `rows`: of the file."""

    image: str
    label: str
    is_encoded: bool
    class_names: Mapping[int, str]
    rows: int


def files(source: Path) -> list[Path]:
    """Return the Parquet files of a source, sorted by path; empty for a folder without any, two levels deep."""
    if source.is_file():
        return [source]
    return sorted([*source.glob("*.parquet"), *source.glob("*/*.parquet")])


def collect(source: Path, staging: Staging, options: Options) -> Collected:
    """Read all rows, in the order of the files. Raises InputError for a table without images or classes."""
    splits = split_files(files(source), options, "train" if source.is_file() else None)
    columns = {path: _columns(path, options) for path in splits}
    if not columns:
        raise InputError(f"{source}: found only files of the validation split; fix: leave out --validation omit")
    if len({each.is_encoded for each in columns.values()}) > 1:
        raise InputError(f"{source}: found pictures in one file and numbers in another; fix: convert them apart")
    total = sum(each.rows for each in columns.values())
    first = next(iter(columns.values()))
    _check_options(source, options, first)
    if not first.is_encoded:
        blocks = _blocks(splits, columns)
        return tables.collect(source, Table(blocks=blocks, rows=total, class_names=first.class_names), staging, options)
    return _decode(source, splits, columns, total, staging, options)


def _check_options(source: Path, options: Options, columns: Columns) -> None:
    """Raise InputError for an option that is only for the other kind of table."""
    given = [name for name in ("size", "channels", "background", "skip_bad") if options.is_given(name)]
    given = (["shape"] if options.shape else []) if columns.is_encoded else given
    if given:
        kind, other = ("pictures", "numbers") if columns.is_encoded else ("numbers", "pictures")
        raise InputError(
            f"--{given[0].replace('_', '-')}: found for {source}, a table of {kind}, expected one of {other}; "
            "fix: leave it out"
        )


def _decode(
    source: Path,
    splits: Mapping[Path, Split],
    columns: Mapping[Path, Columns],
    total: int,
    staging: Staging,
    options: Options,
) -> Collected:
    places: dict[str, tuple[Split, Value]] = {}
    folder = source.parent if source.is_file() else source

    def rows() -> Iterator[Entry]:
        for path, part in splits.items():
            start = 0
            for images, classes in _batches(path, columns[path]):
                for row, (image, value) in enumerate(zip(images.to_pylist(), classes, strict=True), start):
                    entry = _entry(f"{path.relative_to(folder)} row {row}", image)
                    places[entry.path] = part, value
                    yield entry
                start += len(classes)

    paths, bad = pictures.stage(rows(), total, source, staging, options)
    placed = [(row, *places[path]) for row, path in enumerate(paths)]
    result = collected(placed, staging, paths, bad, str(source))
    return result if result.class_names else replace(result, class_names=next(iter(columns.values())).class_names)


def _entry(path: str, image: Any) -> Entry:
    data = image.get("bytes") if isinstance(image, dict) else image
    if not data or not isinstance(data, bytes):
        return Entry(path, fault="no bytes in the table")
    return Entry(path, data) if len(data) <= MOST_BYTES else Entry(path, fault=f"found {len(data):,} bytes")


def _blocks(splits: Mapping[Path, Split], columns: Mapping[Path, Columns]) -> Iterator[Block]:
    for path, part in splits.items():
        for images, classes in _batches(path, columns[path]):
            try:
                values = np.array(images.to_pylist(), _float_type(images.type))
            except ValueError as error:
                raise InputError(
                    f"{path}: found images of several shapes, expected one; fix: pad or cut them"
                ) from error
            if values.dtype.kind not in "iufb":
                raise InputError(
                    f"{path}: found {columns[path].image} of {values.dtype}, expected numbers; fix: cast it"
                )
            yield Block(split=part, images=values, classes=classes)


def _float_type(kind: Any) -> Any:
    """Return the NumPy type of lists of floats, which Python's have not; None for other lists."""
    import pyarrow as pa

    while hasattr(kind, "storage_type") or hasattr(kind, "value_type"):
        kind = kind.storage_type if hasattr(kind, "storage_type") else kind.value_type
    return kind.to_pandas_dtype() if pa.types.is_floating(kind) else None


def _batches(path: Path, columns: Columns) -> Iterator[tuple[Any, list[Value]]]:
    """Yield the image column and the classes of some rows at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_ROWS, columns=[columns.image, columns.label]):
                classes = batch.column(columns.label).to_pylist()
                if None in classes:
                    raise InputError(f"{path}: found a row without {columns.label}, expected a class; fix: remove it")
                yield batch.column(columns.image), classes
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def _columns(path: Path, options: Options) -> Columns:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error
    features = _features(schema.metadata or {})
    is_image = {name: each.get("_type") == "Image" for name, each in features.items()}
    image = _choose(schema.names, _IMAGES, [name for name, yes in is_image.items() if yes], path, "images", "")
    label = _choose(schema.names, _LABELS, [options.label] if options.label else [], path, "classes", " with --label")
    kind = schema.field(image).type
    is_encoded = pa.types.is_struct(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    label_kind = schema.field(label).type
    if not (pa.types.is_integer(label_kind) or pa.types.is_string(label_kind) or pa.types.is_large_string(label_kind)):
        raise InputError(f"{path}: found {label} of {label_kind}, expected integers or text; fix: choose with --label")
    names = features.get(label, {}).get("names") or []
    return Columns(
        image=image, label=label, is_encoded=is_encoded, class_names=dict(enumerate(map(str, names))), rows=rows
    )


def _features(metadata: Mapping[bytes, bytes]) -> dict[str, dict[str, Any]]:
    """Return what Hugging Face's metadata say of each column; empty if there are none, or they cannot be read."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError, RecursionError):
        return {}
    return (
        {name: each for name, each in features.items() if isinstance(each, dict)} if isinstance(features, dict) else {}
    )


def _choose(names: list[str], usual: tuple[str, ...], wanted: list[str], path: Path, what: str, option: str) -> str:
    """Return the wanted column, or the first that has a usual name."""
    if wanted and wanted[0] not in names:
        raise InputError(f"{path}: found no column {wanted[0]} among {', '.join(names[:9])}; fix: name one{option}")
    column = wanted[0] if wanted else next((name for name in usual if name in names), None)
    if column is None:
        raise InputError(
            f"{path}: found the columns {', '.join(names[:9])}, expected {what} in {usual[0]}; fix: name it so"
            + (f", or choose{option}" if option else "")
        )
    return column


def _damaged(path: Path, error: BaseException) -> InputError:
    return InputError(f"{path}: cannot be read as Parquet ({one_line(error)}); fix: get it again")
