"""Shards into arrays, through Petastorm. The only petastorm import.

Petastorm is given a list of files, one row group each, and reads ahead in its threads. It needs none of its own
metadata, which is a pickle, for plain Parquet. What its threads do with a row group is up to a worker class, and here
it is one that hands on pyarrow's columns as they are: Petastorm's own (0.13.1) copies them by an index of all rows in
order, then stacks them row by row, which costs as much as the decoding.

Its thread pool has two races that this module makes good (of 60 reads of up to 40 tiny files with 2 threads, 13 lost
row groups and 31 swapped some):

- It ends early where its consumer asks just as the last row groups are handed out: `all_workers_done` is judged first,
  `completed` after it, and what is handed out in between is never waited for. So what is missing is read again.
- It skips a thread that has nothing to do at the moment, and so gets row groups out of order. So a row group is known
  by the archive row it begins with, never by its turn.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jobs.dataset import Manifest, Shard
from jobs.errors import InputError, one_line

if TYPE_CHECKING:
    import pyarrow as pa

_COLUMNS = ("image", "label", "index")
_NUMPY_NAMES = {"float": "float32", "double": "float64"}  # of Arrow's types


@dataclass(frozen=True)
class Rows:
    """One shard's columns: images float32 [rows, height·width·channels], labels int32 [rows], indices int64 [rows]."""

    images: NDArray[Any]
    labels: NDArray[Any]
    indices: NDArray[Any]


def read_shards(
    directory: Path, manifest: Manifest, shards: Sequence[Shard], threads: int
) -> Iterator[tuple[int, Rows]]:
    """Yield each of the given shards once, with its place in the list, about in the order of the list.

    Raises InputError where a file is not what the manifest says.
    """
    missing = {shard.first_index: place for place, shard in enumerate(shards)}
    while missing:
        asked = [shards[place] for place in missing.values()]
        for table in _read(directory, asked, threads):
            place = missing.pop(_first_index(table), None)
            if place is not None:
                yield place, _rows(directory / shards[place].path, shards[place], manifest, table)
        if len(missing) == len(asked):
            raise InputError(
                f"{directory / asked[0].path}: found no row group that begins with archive row "
                f"{asked[0].first_index}, expected one; remove {directory} and prepare it again"
            )


def _read(directory: Path, shards: Sequence[Shard], threads: int) -> "Iterator[pa.Table]":
    """Yield these files' row groups as Petastorm's threads have read them."""
    # Petastorm's import takes over a second: a worker that reads from its cache alone does without.
    import pyarrow as pa
    from petastorm.fs_utils import FilesystemResolver
    from petastorm.reader import Reader
    from petastorm.workers_pool.thread_pool import ThreadPool

    # It uses the legacy interface of the pyarrow it is pinned with, and pyarrow says so twenty times.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"petastorm\..*")
    # Paths, not URLs: those it would cut at # and ?, and leave a space as %20.
    paths = [str((directory / shard.path).resolve()) for shard in shards]
    try:
        reader = Reader(
            FilesystemResolver("file:///").filesystem(),
            paths,
            schema_fields=list(_COLUMNS),
            worker_class=RowGroupWorker,
            reader_pool=ThreadPool(min(threads, len(shards)), max(2, threads)),
            shuffle_row_groups=False,
            num_epochs=1,
        )
    except pa.ArrowException as error:  # it looks at all files' footers, and does not say whose is none
        raise (_first_unreadable(directory / shard.path for shard in shards) or error) from error
    try:
        yield from reader
    finally:
        reader.stop()
        reader.join()


class RowGroupWorker:
    """One thread of Petastorm's pool: reads row groups into Arrow tables. See `petastorm.workers_pool.worker_base`."""

    def __init__(self, worker_id: int, publish_func: Callable[[Any], None], args: Sequence[Any]) -> None:
        """`args`: what Petastorm's Reader gives to each worker."""
        self.worker_id, self.publish_func = worker_id, publish_func
        self._filesystem, self._row_groups = args[0], args[4]

    @staticmethod
    def new_results_queue_reader() -> "TableReader":
        """Return what takes the tables from the threads."""
        return TableReader()

    def process(self, piece_index: int, worker_predicate: None, shuffle_row_drop_partition: tuple[int, int]) -> None:
        """Read one row group and publish it. The other parameters belong to what is not asked for here."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        row_group = self._row_groups[piece_index]
        try:
            with self._filesystem.open(row_group.path, "rb") as file:
                table = pq.ParquetFile(file).read_row_group(row_group.row_group, list(_COLUMNS), use_threads=False)
        except (pa.ArrowException, OSError) as error:
            # Raised here, Petastorm would print its traceback.
            self.publish_func(_unreadable(Path(row_group.path), error))
        else:
            self.publish_func(table)

    def shutdown(self) -> None:
        """Nothing is held."""


class TableReader:
    """What Petastorm's Reader takes results with: hands on the next table of any thread."""

    batched_output = True

    def read_next(self, workers_pool: Any, schema: Any, ngram: None) -> "pa.Table":
        """Return the next row group; raise StopIteration after the last, and what a thread has failed with."""
        from petastorm.workers_pool import EmptyResultError

        try:
            found = workers_pool.get_results()
        except EmptyResultError:
            raise StopIteration from None
        if isinstance(found, Exception):
            raise found
        return found


def _unreadable(path: Path, error: Exception) -> Exception:
    """Return what to raise for a file that is no Parquet; the system's own, as of a lost disk, are left alone."""
    if isinstance(error, OSError) and error.errno is not None:
        return error
    return InputError(f"{path}: cannot be read ({one_line(error)[:200]}); {_mend(path)}")


def _first_unreadable(paths: Iterable[Path]) -> Exception | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in paths:
        try:
            pq.read_metadata(path)
        except (pa.ArrowException, OSError) as error:
            return _unreadable(path, error)
    return None


def _mend(path: Path) -> str:
    return f"remove {path.parents[1]} and prepare it again"


def _first_index(table: "pa.Table") -> int:
    """Return the archive row that a row group begins with; -1 where it tells of none."""
    first = table["index"][0].as_py() if "index" in table.column_names and len(table) else None
    return first if isinstance(first, int) else -1


def _rows(path: Path, shard: Shard, manifest: Manifest, table: "pa.Table") -> Rows:
    """Return a row group's columns as arrays on the same memory; raise InputError where they are not the shard's."""
    import pyarrow as pa

    expected = (shard.rows, manifest.values_per_image)
    mend = _mend(path)
    for name in _COLUMNS:
        if name not in table.column_names:
            raise InputError(f"{path}: found no column {name}, expected one; {mend}")
        if table[name].null_count:
            raise InputError(f"{path}: found no {name} in some rows, expected one in each; {mend}")
    for name in ("label", "index"):
        if not pa.types.is_integer(table[name].type):
            raise InputError(f"{path}: found a column {name} of {table[name].type}, expected integers; {mend}")
    column = table["image"]
    images = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()  # which copies one chunk, too
    found = _described(images)
    if found != f"float32 {expected}":
        raise InputError(f"{path}: found images {found}, expected float32 {expected}; {mend}")
    return Rows(
        images.flatten().to_numpy().reshape(expected),
        table["label"].to_numpy().astype(np.int32, copy=False),
        table["index"].to_numpy().astype(np.int64, copy=False),
    )


def _described(images: "pa.Array") -> str:
    """Return type and shape of a list column as NumPy would write them; lists of several lengths are told as such."""
    import pyarrow as pa

    if not pa.types.is_list(images.type):
        return f"of type {images.type}"
    values, lengths = images.flatten(), np.diff(images.offsets)
    low, high = lengths.min(), lengths.max()
    length = low if low == high else f"{low} to {high}"
    nulls = f" with {values.null_count} nulls" if values.null_count else ""
    return f"{_NUMPY_NAMES.get(str(values.type), values.type)} ({len(images)}, {length}){nulls}"
