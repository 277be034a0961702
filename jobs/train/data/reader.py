"""Read shards into arrays through Petastorm; the only module that imports it.

Petastorm gets a list of Parquet files with one row group each and reads ahead in its threads. It needs none of its own
metadata, which is a pickle. A worker class of ours passes pyarrow's columns on as they are. Petastorm's own (0.13.1)
copies them by an index of all rows, then stacks them row by row, which costs as much as the decoding.

Petastorm's thread pool has two races, which this module works around. In 60 reads of up to 40 tiny files with 2
threads, 13 lost row groups and 31 swapped some.

- It ends early if its consumer asks just as the last row groups are handed out: it checks `all_workers_done` first and
  `completed` after it, and never waits for a row group handed out in between. So this module reads missing ones again.
- It skips a thread that is idle at the moment, so row groups arrive out of order. So this module recognizes a row group
  by its file, never by its turn.
"""

import socket
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from jobs.dataset import Manifest, Shard
from jobs.errors import IdxtrainError, InputError, one_line
from jobs.shard_copies import ShardCopies

if TYPE_CHECKING:
    import pyarrow as pa

_COLUMNS = ("image", "label", "index")


T = TypeVar("T")


@dataclass(frozen=True)
class Rows:
    """Rows as arrays: images [n, height·width·channels], labels int32 [n], archive indices int64 [n].

    The images are as the dataset stores them: float32 in [0, 1] or uint8. The graph normalizes bytes.
    """

    images: NDArray[Any]
    labels: NDArray[Any]
    indices: NDArray[Any]


def read_shards(
    directory: Path, manifest: Manifest, shards: Sequence[Shard], threads: int
) -> Iterator[tuple[int, Rows]]:
    """Yield each shard's position in `shards` and its rows, once, roughly in that order.

    Raises InputError if a file does not match the manifest.
    """
    return process_shards(directory, manifest, shards, threads, lambda _, read: read())


def process_shards(
    directory: Path,
    manifest: Manifest,
    shards: Sequence[Shard],
    threads: int,
    process: Callable[[int, Callable[[], Rows]], T],
) -> Iterator[tuple[int, T]]:
    """Yield each shard's position in `shards` and what `process` returned for it, once, roughly in that order.

    `process`: called in a reader's thread with the position and a function that reads the rows. It may be called again
    for the same shard. Raises InputError if a file does not match the manifest.
    """

    def handle(position: int, load: "Callable[[], pa.Table]") -> tuple[int, T]:
        shard = shards[position]
        return position, process(position, lambda: _rows(directory / shard.path, shard, manifest, load()))

    missing = dict(enumerate(shards))
    while missing:
        wanted = dict(missing)
        for position, result in _read(directory, wanted, threads, handle):
            if missing.pop(position, None):
                yield position, result
        if len(missing) == len(wanted):
            shard = shards[next(iter(missing))]
            raise _no_row_group(directory / shard.path, shard)


def _read(
    directory: Path,
    shards: Mapping[int, Shard],
    threads: int,
    handle: "Callable[[int, Callable[[], pa.Table]], tuple[int, T]]",
) -> Iterator[tuple[int, T]]:
    """Yield what `handle` returns, in Petastorm's threads, for each file: it gets its key and a function to read it."""
    # Imported here, as it takes over a second: a rank that reads from its row cache alone does without.
    import pyarrow as pa
    from petastorm.fs_utils import FilesystemResolver
    from petastorm.reader import Reader
    from petastorm.workers_pool.thread_pool import ThreadPool

    # It uses a legacy interface of the pinned pyarrow, which warns twenty times.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"petastorm\..*")
    # Paths, not URLs: Petastorm cuts URLs at # and ?, and leaves a space as %20.
    copies = ShardCopies(directory, list(shards.values()))
    keys = dict(zip(copies.readable(), shards, strict=True))
    hooks = {"copies": copies, "handle": staticmethod(lambda path, load: handle(keys[path], load))}
    try:
        reader = Reader(
            FilesystemResolver("file:///").filesystem(),
            list(keys),
            schema_fields=list(_COLUMNS),
            worker_class=type("Worker", (RowGroupWorker,), hooks),
            reader_pool=ThreadPool(min(threads, len(shards)), max(2, threads)),
            shuffle_row_groups=False,
            num_epochs=1,
        )
    except (pa.ArrowException, OSError) as error:  # Petastorm reads every footer but does not name the damaged file
        raise (_first_unreadable(keys, copies) or error) from error
    try:
        yield from reader
    finally:
        reader.stop()
        reader.join()


class RowGroupWorker:
    """A thread of Petastorm's pool, which reads row groups into Arrow tables: `petastorm.workers_pool.worker_base`.

    `handle`: gets a file's path and a function that reads its row group; what it returns is published.
    """

    copies: ShardCopies
    handle: "Callable[[str, Callable[[], pa.Table]], Any]"

    def __init__(self, worker_id: int, publish_func: Callable[[Any], None], args: Sequence[Any]) -> None:
        """`args`: what Petastorm's Reader passes to each worker."""
        self.worker_id, self.publish_func = worker_id, publish_func
        self._filesystem, self._row_groups = args[0], args[4]

    @staticmethod
    def new_results_queue_reader() -> "ResultReader":
        """Return the object that takes the results from the threads."""
        return ResultReader()

    def process(self, piece_index: int, worker_predicate: None, shuffle_row_drop_partition: tuple[int, int]) -> None:
        """Handle one row group. The other parameters are for features that are not used here."""
        row_group = self._row_groups[piece_index]
        try:
            result = self.handle(row_group.path, partial(self._load, row_group.path, row_group.row_group))
        except (IdxtrainError, OSError) as error:  # published, not raised: Petastorm would print a traceback
            self.publish_func(error)
        else:
            self.publish_func(result)

    def _load(self, path: str, row_group: int) -> "pa.Table":
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.copies.made(path)
        try:
            with self._filesystem.open(path, "rb") as file:
                return pq.ParquetFile(file).read_row_group(row_group, list(_COLUMNS), use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(path, error, self.copies) from error

    def shutdown(self) -> None:
        """Do nothing: there is nothing to release."""


class ResultReader:
    """Passes the next result of any thread on to Petastorm's Reader."""

    batched_output = True

    def read_next(self, workers_pool: Any, schema: Any, ngram: None) -> Any:
        """Return the next result. Raises StopIteration after the last, and the error that a thread published."""
        from petastorm.workers_pool import EmptyResultError

        try:
            published = workers_pool.get_results()
        except EmptyResultError:
            raise StopIteration from None
        if isinstance(published, Exception):
            raise published
        return published


def _unreadable(path: str, error: Exception, copies: ShardCopies) -> Exception:
    """Return the error for a file that is not valid Parquet; a system error, e.g. of a lost disk, is returned as is.

    A copy is named by its node and its shard: its own path is gone once the job has ended.
    """
    source, node = copies.source(path), socket.gethostname()
    if isinstance(error, OSError) and error.errno is not None:
        text = f"{error.strerror}, in its copy on node {node}"
        return error if path == source else OSError(error.errno, text, source)
    what, fix = "no valid Parquet", _fix(Path(source))
    if path != source:
        what, fix = f"no valid Parquet in its copy on node {node}", "fix: run it again, which copies the shard again"
    return InputError(f"{source}: found {what} ({one_line(error)[:200]}), expected a shard; {fix}")


def _first_unreadable(paths: Iterable[str], copies: ShardCopies) -> Exception | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in paths:
        try:
            pq.read_metadata(path)
        except (pa.ArrowException, OSError) as error:
            return _unreadable(path, error, copies)
    return None


def _fix(path: Path) -> str:
    return f"fix: remove {path.parents[1]} and prepare it again"


def _no_row_group(path: Path, shard: Shard) -> InputError:
    expected = f"found no row group that begins with archive row {shard.first_index}, expected one"
    return InputError(f"{path}: {expected}; {_fix(path)}")


def _first_index(table: "pa.Table") -> int:
    """Return the first archive row of a row group; -1 if it has none."""
    first = table["index"][0].as_py() if "index" in table.column_names and len(table) else None
    return first if isinstance(first, int) else -1


def _rows(path: Path, shard: Shard, manifest: Manifest, table: "pa.Table") -> Rows:
    """Return a row group's columns as arrays on the same memory. Raises InputError if they do not match the shard."""
    import pyarrow as pa

    from jobs.pixels import describe, from_column

    if _first_index(table) != shard.first_index:
        raise _no_row_group(path, shard)
    expected = (shard.rows, manifest.values_per_image)
    for name in _COLUMNS:
        if name not in table.column_names:
            raise InputError(f"{path}: found no column {name}, expected one; {_fix(path)}")
        if table[name].null_count:
            raise InputError(f"{path}: found no {name} in some rows, expected one in each; {_fix(path)}")
    for name in ("label", "index"):
        if not pa.types.is_integer(table[name].type):
            raise InputError(f"{path}: found a column {name} of {table[name].type}, expected integers; {_fix(path)}")
    column = table["image"]
    # combine_chunks would copy a single chunk, too.
    images = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    description, wanted = describe(images), f"{manifest.pixel_type} {expected}"
    if description != wanted:
        raise InputError(f"{path}: found images {description}, expected {wanted}; {_fix(path)}")
    return Rows(
        from_column(images),
        table["label"].to_numpy().astype(np.int32, copy=False),
        table["index"].to_numpy().astype(np.int64, copy=False),
    )
