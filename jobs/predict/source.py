"""What images come from: in batches of one size, each image once, in order."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from jobs.convert.collected import Bad

KeyColumn = Literal["row", "picture"]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some images. `keys`: by which people find each: its row, from 0, or its file.

    `images`: float32 [n, height, width, channels] in [0, 1]. `labels`: [n], integers or class names, if they are known.
    `bad`: pictures at this place that cannot be used. `inverted`: how many pictures were inverted.
    """

    keys: Sequence[int] | Sequence[str]
    images: NDArray[Any]
    labels: NDArray[Any] | None = None
    bad: Sequence[Bad] = ()
    inverted: int = 0


@dataclass(frozen=True, kw_only=True)
class Source:
    """Images to classify. `title`: in messages. `total`: how many there are, if known."""

    title: str
    key: KeyColumn
    total: int | None
    batches: Iterator[Batch]


def rebatched(blocks: Iterable[NDArray[Any]], size: int) -> Iterator[NDArray[Any]]:
    """Yield the rows of blocks, in order, in arrays of `size` rows; the last one may have fewer."""
    waiting: list[NDArray[Any]] = []
    rows = 0
    for block in blocks:
        waiting.append(block)
        rows += len(block)
        if rows >= size:
            joined = np.concatenate(waiting)
            whole = rows - rows % size
            yield from (joined[start : start + size] for start in range(0, whole, size))
            waiting, rows = [joined[whole:]], rows - whole
    if rows:
        yield np.concatenate(waiting)
