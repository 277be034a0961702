"""The rows that a prediction has: one per image, with its most probable classes.

Columns: `row` int64, from 0, or `picture`, the file; `label` int64, as in the archives; `name`; `probability` float32.
With the second most probable class `label_2`, `name_2` and `probability_2`, and so on.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jobs.dataset import Manifest
from jobs.predict.source import KeyColumn

if TYPE_CHECKING:
    import pyarrow as pa


def schema(key: KeyColumn, top: int) -> "pa.Schema":
    """Return the columns and their types. `top`: classes per image."""
    import pyarrow as pa

    fields: list[tuple[str, pa.DataType]] = [(key, pa.int64() if key == "row" else pa.string())]
    for rank in range(1, top + 1):
        end = f"_{rank}" if rank > 1 else ""
        fields += [(f"label{end}", pa.int64()), (f"name{end}", pa.string()), (f"probability{end}", pa.float32())]
    return pa.schema(fields)


def to_rows(
    keys: Sequence[int] | Sequence[str], probabilities: NDArray[Any], manifest: Manifest, columns: "pa.Schema"
) -> "pa.RecordBatch":
    """Return the rows of some images. `probabilities`: float32 [n, classes]. `columns`: of `schema`."""
    import pyarrow as pa

    labels, names = np.array(manifest.labels, np.int64), np.array(manifest.class_names, object)
    order = most_probable(probabilities, len(columns) // 3)
    values: list[Any] = [[_text(key) for key in keys]]
    for rank in range(order.shape[1]):
        chosen = order[:, rank]
        values += [labels[chosen], names[chosen], probabilities[np.arange(len(chosen)), chosen]]
    types = [field.type for field in columns]
    return pa.record_batch([pa.array(each, type) for each, type in zip(values, types, strict=True)], schema=columns)


def most_probable(probabilities: NDArray[Any], top: int) -> NDArray[Any]:
    """Return the numbers of the most probable classes, int64 [n, top]; of equal ones the lower number first."""
    if top == 1:
        return probabilities.argmax(axis=1)[:, None]
    return np.argsort(-probabilities, axis=1, kind="stable")[:, :top]


def _text(key: int | str) -> int | str:
    """Return a key that UTF-8 can hold: file names may be any bytes."""
    return os.fsencode(key).decode("utf-8", "backslashreplace") if isinstance(key, str) else key
