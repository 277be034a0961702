"""What the ranks of an evaluation leave for rank 0: the probabilities of their batches, in files of the run's folder.

Batches are the same at any number of ranks, and each rank takes whole ones, so every image gets the same probabilities.
Ranks exchange nothing else. A rank of a training computes with all others; here, each is on its own.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.dataset import Split
from jobs.errors import IdxtrainError
from jobs.files import write_atomic

_LEAST_BATCHES = 40  # of a rank: for fewer, another rank's start-up takes longer than it saves
_BLOCK_BYTES = 4 << 20  # of probabilities that are read at once
_POLL_SECONDS = 0.2
_STALL_SECONDS = 600.0  # in which a rank that runs writes some batches, also while it starts


@dataclass(frozen=True, kw_only=True)
class World:
    """The number of this rank and of all ranks, in the evaluation and on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


ONE_RANK = World()


def this_world(environment: Mapping[str, str]) -> World:
    """Return the ranks that a launcher started, with the variables that training's ranks get; one rank without any."""
    names = {"rank": "RANK", "size": "SIZE", "local_rank": "LOCAL_RANK", "local_size": "LOCAL_SIZE"}
    given = {field: environment.get(f"HOROVOD_{name}") for field, name in names.items()}
    return World(**{field: int(value) for field, value in given.items() if value is not None})


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The probabilities of one split, in a file for each rank that has batches of it.

    `folder`: where the files lie; it must outlast them. `key`: the hash of all that they depend on, so that files of
    another evaluation are never read. `batches`: ranges of rows, each beginning where the one before it ends. `size`:
    the number of ranks.
    """

    folder: Path
    key: str
    split: Split
    batches: Sequence[range]
    classes: int
    size: int

    @property
    def ranks(self) -> int:
        """How many ranks have batches: the first ones."""
        return min(self.size, max(1, len(self.batches) // _LEAST_BATCHES)) if self.batches else 0

    def batches_of(self, rank: int) -> Sequence[range]:
        """Return the batches of a rank; empty for a rank that is not needed."""
        if rank >= self.ranks:
            return ()
        return self.batches[rank * len(self.batches) // self.ranks : (rank + 1) * len(self.batches) // self.ranks]

    def rows_of(self, rank: int) -> range:
        """Return the rows of a rank's batches."""
        batches = self.batches_of(rank)
        return range(batches[0].start, batches[-1].stop) if batches else range(0)

    def _file(self, rank: int) -> Path:
        return self.folder / f".{self.key}-{self.split}-{rank}-of-{self.ranks}.float32"

    def is_written(self, rank: int) -> bool:
        """Return whether a rank's file is whole, which one that was stopped has left."""
        try:
            return self._file(rank).stat().st_size == 4 * self.classes * len(self.rows_of(rank))
        except OSError:
            return False

    def write(self, rank: int, blocks: Iterable[NDArray[Any]]) -> None:
        """Write the probabilities of a rank's rows, float32 [some rows, classes] each time, in row order."""

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:
                for block in blocks:
                    file.write(np.ascontiguousarray(block, "<f4").data)

        write_atomic(self._file(rank), write)

    def wait(self) -> None:
        """Wait until every rank has written its file. A launcher ends this process if another rank fails.

        Raises IdxtrainError, naming the rank, if one that is missing has written nothing for 10 minutes.
        """
        missing = list(range(self.ranks))
        sizes, changed = dict.fromkeys(missing, -1), dict.fromkeys(missing, time.monotonic())
        while missing := [rank for rank in missing if not self.is_written(rank)]:
            for rank in missing:
                size = self._written_bytes(rank)
                if size != sizes[rank]:
                    sizes[rank], changed[rank] = size, time.monotonic()
                elif time.monotonic() - changed[rank] > _STALL_SECONDS:
                    raise IdxtrainError(
                        f"evaluate: rank {rank} has written nothing for {_STALL_SECONDS:.0f} s, expected "
                        "probabilities; fix: see whether its node hangs, then run again"
                    )
            time.sleep(_POLL_SECONDS)

    def _written_bytes(self, rank: int) -> int:
        """Return the bytes that a rank has written so far, in files that are not whole yet."""
        total = 0
        for path in self.folder.glob(f".*{self._file(rank).name}"):
            with suppress(OSError):
                total += path.stat().st_size
        return total

    def remove(self) -> None:
        """Remove the files."""
        for rank in range(self.ranks):
            self._file(rank).unlink(missing_ok=True)

    def blocks(self) -> Iterator[NDArray[Any]]:
        """Yield the probabilities of all rows in order, float32 [some rows, classes], about 4 MB at a time."""
        values = self.classes * max(1, _BLOCK_BYTES // (4 * self.classes))
        for rank in range(self.ranks):
            with self._file(rank).open("rb") as file:
                while len(block := np.fromfile(file, "<f4", values)):
                    yield block.reshape(-1, self.classes)

    def first(self, rows: int) -> NDArray[Any]:
        """Return the probabilities of the first `rows` rows, or of all if there are fewer: float32 [n, classes]."""
        blocks: list[NDArray[Any]] = []
        for block in self.blocks():
            blocks.append(block)
            if sum(map(len, blocks)) >= rows:
                break
        return np.concatenate(blocks)[:rows]

    def all(self) -> NDArray[Any]:
        """Return the probabilities of all rows, float32 [rows, classes]."""
        rows = self.batches[-1].stop if self.batches else 0
        probabilities, start = np.empty((rows, self.classes), np.float32), 0
        for block in self.blocks():
            probabilities[start : start + len(block)] = block
            start += len(block)
        return probabilities


def even_batches(rows: range, size: int) -> list[range]:
    """Return ranges of `size` rows; the last one may be smaller."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]
