"""What images come from: in batches of one size, each image once, in order."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from jobs.convert.collected import Bad
from jobs.errors import InputError

KeyColumn = Literal["row", "picture"]
T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """One of `count` processes that share images, `number` from 1: it takes every `count`-th batch.

    So batches, and with them the probabilities, are the same as in one process.
    """

    number: int = 1
    count: int = 1

    def has(self, batch: int) -> bool:
        """Return whether a batch, counted from 0, belongs to this share."""
        return batch % self.count == self.number - 1

    def rows(self, total: int, size: int) -> int:
        """Return how many of all images belong to this share, in batches of `size`."""
        full, rest = divmod(total, size)
        own = max(0, -(-(full - self.number + 1) // self.count))  # of the full batches
        return own * size + (rest if self.has(full) else 0)

    def of(self, items: Iterable[T], size: int) -> Iterator[T]:
        """Yield the items of this share, in batches of `size`."""
        return (item for number, item in enumerate(items) if self.has(number // size))


ALL = Share()


def parse_share(text: str) -> Share:
    """Return the share that I/N means. Raises InputError."""
    numbers = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if numbers is None or not 1 <= int(numbers[1]) <= int(numbers[2]):
        raise InputError(f"--shard {text}: found no share, expected I/N with I from 1 to N; fix: give --shard 1/4")
    return Share(int(numbers[1]), int(numbers[2]))


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
    """Images to classify. `title`: in messages. `total`: how many there are, if known.

    `may_be_empty`: for any share but the first, as there may be fewer batches than shares.
    """

    title: str
    key: KeyColumn
    total: int | None
    batches: Iterator[Batch]
    may_be_empty: bool = False


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
