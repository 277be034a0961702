"""Test images for the demo, and what the model made of them in `evaluate`. Reads a few images at a time."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.dataset import Manifest, Shard, Split, verify_shards
from jobs.errors import InputError, StoreLostError
from jobs.shard_copies import local_path

_BATCH = 256  # rows read at once
_MOST_BATCHES = 16  # kept: 12 MB of MNIST
_SAMPLE = 64  # images from each shard that is sampled


@dataclass(frozen=True, kw_only=True)
class TestImages:
    """The test split of a dataset, in row order, with predictions if there are any.

    `indices`: as in the dataset. `labels`, `predicted`: class numbers. `probabilities`: of the predicted class.
    `pictures`: the names of the pictures, if they are known.
    """

    indices: NDArray[Any]
    labels: NDArray[Any]
    predicted: NDArray[Any] | None = None
    probabilities: NDArray[Any] | None = None
    pictures: tuple[str, ...] = ()


class Gallery:
    """Images of a dataset that may not be here (any more)."""

    def __init__(self, dataset: Path, manifest: Manifest, predictions: Path | None) -> None:
        """`dataset`: its folder. `predictions`: the run's predictions.parquet. Either may be missing."""
        self.dataset, self.manifest, self._predictions = dataset, manifest, predictions
        self._batches: OrderedDict[tuple[str, int], NDArray[Any]] = OrderedDict()
        self._lock = Lock()

    @cached_property
    def test(self) -> TestImages:
        """What is known about the test images, checked against the manifest. Raises InputError if they are gone."""
        import pyarrow.parquet as pq

        self._require(self.manifest.splits["test"].shards)
        indices, labels = [np.empty(0, np.int64)], [np.empty(0, np.int32)]
        for shard in self.manifest.splits["test"].shards:
            with pq.ParquetFile(local_path(self.dataset, shard)) as file:
                table = file.read(["index", "label"], use_threads=False)
            indices.append(table["index"].to_numpy())
            labels.append(table["label"].to_numpy())
        return self._with_predictions(np.concatenate(indices), np.concatenate(labels))

    def rows(self, which: str, of: int | None) -> NDArray[Any]:
        """Return positions in the test split: all ("test") or the incorrectly predicted ("errors"), of a class or all.

        Raises InputError for errors without predictions.
        """
        test = self.test
        is_wanted = np.ones(len(test.labels), bool)
        if which == "errors":
            if test.predicted is None:
                raise InputError(f"{self._predictions or 'predictions.parquet'}: not found; fix: evaluate the run")
            is_wanted &= test.predicted != test.labels
        if of is not None:
            is_wanted &= test.labels == of
        return np.flatnonzero(is_wanted)

    def position(self, index: int) -> int:
        """Return the position of a dataset's `index` in the test split. Raises InputError if it is not in it."""
        places = np.flatnonzero(self.test.indices == index)
        if not len(places):
            raise InputError(f"index: found {index}, expected one of a test image; fix: take it from /api/images")
        return int(places[0])

    def image(self, position: int) -> NDArray[Any]:
        """Return a test image, float32 [height, width, channels] in [0, 1]."""
        _ = self.test  # checks the files
        start = 0
        for shard in self.manifest.splits["test"].shards:
            if position < start + shard.rows:
                break
            start += shard.rows
        number, row = divmod(position - start, _BATCH)
        return self._batch(shard, number)[row].reshape(self.manifest.shape)

    def sample(self, most: int) -> NDArray[Any]:
        """Return up to about `most` training images, else test images, from shards spread over the split.

        float32 [n, height, width, channels]. Raises InputError if the dataset is not here or empty.
        """
        chosen = self._spread("train", most)
        if not self._are_here(chosen):
            chosen = self._spread("test", most)
        self._require(chosen)
        if not chosen:
            raise InputError(f"{self.dataset}: found no images, expected some; fix: prepare the data again")
        images = [next(self._stream(shard, max(_SAMPLE, most // len(chosen)))) for shard in chosen]
        return np.concatenate(images).reshape(-1, *self.manifest.shape)

    def _spread(self, split: Split, most: int) -> list[Shard]:
        """Return the shards of a split to sample `most` images from."""
        shards = self.manifest.splits[split].shards
        numbers = np.linspace(0, len(shards) - 1, max(1, most // _SAMPLE)).astype(int) if shards else ()
        return [shards[number] for number in np.unique(numbers)]

    def _are_here(self, shards: Sequence[Shard]) -> bool:
        try:
            self._require(shards)
        except InputError:
            return False
        return True

    def _require(self, shards: Sequence[Shard]) -> None:
        if not self.dataset.is_dir():
            fix = "prepare the data again, with `idxtrain prepare`"
            raise InputError(f"{self.dataset}: found no such folder, expected the dataset of the model; fix: {fix}")
        try:
            verify_shards(self.dataset, shards)
        except StoreLostError as error:  # the demo does without these images
            raise InputError(str(error)) from error

    def _with_predictions(self, indices: NDArray[Any], labels: NDArray[Any]) -> TestImages:
        from jobs.evaluate.predictions import read_predictions

        if self._predictions is None or not self._predictions.is_file():
            return TestImages(indices=indices, labels=labels)
        try:
            table = read_predictions(self._predictions)
            predicted = np.searchsorted(np.sort(self.manifest.labels), table["predicted"].to_numpy())
            predicted = np.argsort(self.manifest.labels)[predicted]
            if not (table["index"].to_numpy() == indices).all():
                raise ValueError
        except (ValueError, KeyError, IndexError) as error:  # pyarrow's errors are ValueErrors
            problem = "found predictions that are not of this dataset's test images, expected those of the run"
            raise InputError(f"{self._predictions}: {problem}; fix: evaluate the run again") from error
        pictures = tuple(table["picture"].to_pylist()) if "picture" in table.column_names else ()
        return TestImages(
            indices=indices,
            labels=labels,
            predicted=predicted,
            probabilities=table["probability"].to_numpy(),
            pictures=pictures,
        )

    def _batch(self, shard: Shard, number: int) -> NDArray[Any]:
        with self._lock:
            kept = self._batches.get((shard.path, number))
            if kept is None:
                for i, kept in enumerate(self._stream(shard, _BATCH)):  # noqa: B007
                    if i == number:
                        break
                if kept is None:
                    raise InputError(
                        f"{self.dataset / shard.path}: found no rows, expected images; fix: prepare it again"
                    )
                self._batches[shard.path, number] = kept
                if len(self._batches) > _MOST_BATCHES:
                    self._batches.popitem(last=False)
            return kept

    def _stream(self, shard: Shard, rows: int) -> Iterator[NDArray[Any]]:
        """Yield a shard's images in batches, float32 [rows, values] in [0, 1]."""
        import pyarrow.parquet as pq

        from jobs.pixels import from_column, to_float

        with pq.ParquetFile(local_path(self.dataset, shard)) as file:
            for batch in file.iter_batches(rows, columns=["image"], use_threads=False):
                yield to_float(from_column(batch.column(0)))
