"""Compare new training pairs with the champion's data by what the champion sees: the input of its last dense layer.

The champion was not trained on its validation split, nor on the new pairs. So those two are compared: a network may see
the images that it was trained on differently. Runs in the evaluate stage of a retraining; the gate decides on the
figures.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.dataset import Manifest, Shard, Split, SplitInfo, read_manifest, read_split, verify
from jobs.errors import InputError
from jobs.evaluate.comparison import EXCHANGES, FeatureDrift
from jobs.evaluate.two_sample import TwoSampleResult, matched, two_sample_test
from jobs.segments import read_segments, segment_of

_MOST_PAIRED = 1000  # images of each sample; with them, a shift by one pixel has a p-value of 1 in 1,000 or less
# More are read, so that a pair with other label shares still finds enough images of each class.
_MOST_REFERENCE, MOST_NEW = 5000, 2000
_MOST_SHARDS = 20  # that are read of one split


def feature_drift(
    champion: Any, champion_dataset: Path, directory: Path, manifest: Manifest, batch_size: int
) -> list[FeatureDrift]:
    """Return how far each new pair of a dataset is from the champion's data; empty without a new pair.

    `champion`: the keras.Model. `champion_dataset`: that it was trained on. `directory`, `manifest`: the dataset of the
    challenger. A pair is new if `champion_dataset` was not made from its archives, whatever the options. Raises
    InputError if the champion's dataset is missing, damaged or of another format, or has no validation split.
    """
    known = set(read_manifest(champion_dataset).training_pairs.values())
    pairs = manifest.training_pairs
    new = [info for info in read_segments(directory) if pairs[info.tag] not in known]
    if not new:
        return []
    reference = Reference(champion, champion_dataset, batch_size)
    drifts = []
    for info in new:
        shards = [shard for shard in manifest.splits["train"].shards if segment_of(shard.first_index) == info.number]
        images, labels = _sample(directory, manifest, "train", shards, MOST_NEW)
        seed = int(info.segment_id, 16)  # the same pair gets the same figures
        drifts.append(FeatureDrift(tag=info.tag, **asdict(reference.compare(images, labels, seed))))
    return drifts


class Reference:
    """The champion's features of its validation split."""

    def __init__(self, champion: Any, dataset: Path, batch_size: int) -> None:
        """Compute the features. Raises InputError as `feature_drift` does."""
        manifest = read_manifest(dataset)
        shards = manifest.splits["validation"].shards
        if not shards:
            raise InputError(
                f"{dataset}: found no validation split, expected one to compare new pairs with; fix: set "
                "prepare.validation_rows above 0"
            )
        images, self._labels = _sample(dataset, manifest, "validation", shards, _MOST_REFERENCE)
        self._network = _Features(champion, batch_size)
        self._features = self._network(images)

    def compare(self, images: NDArray[Any], labels: NDArray[Any], seed: int) -> TwoSampleResult:
        """Compare images, float32 [rows, height, width, channels] in [0, 1], of these archive labels, int [rows]."""
        random = np.random.default_rng(seed)
        rows, new_rows = matched(self._labels, labels, _MOST_PAIRED, random)
        features = self._network(images[new_rows]) if len(rows) else self._features[rows]
        return two_sample_test(self._features[rows], features, self._labels[rows], EXCHANGES, random)


class _Features:
    """The part of a model before its last dense layer; all of it if it has none."""

    def __init__(self, model: Any, batch_size: int) -> None:
        import keras
        import tensorflow as tf

        dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
        part = keras.Model(model.inputs, dense[-1].input if dense else model.outputs[0])
        signature = tf.TensorSpec([None, *model.input_shape[1:]], tf.float32)
        self._forward = tf.function(lambda batch: part(batch, training=False), input_signature=[signature])
        self._batch_size = batch_size

    def __call__(self, images: NDArray[Any]) -> NDArray[Any]:
        """Return the features, float32 [rows, size], of images float32 [rows, height, width, channels]."""
        batches = [images[start : start + self._batch_size] for start in range(0, len(images), self._batch_size)]
        outputs = [self._forward(batch).numpy().reshape(len(batch), -1) for batch in batches]
        return np.concatenate(outputs)


def _sample(
    directory: Path, manifest: Manifest, split: Split, shards: Sequence[Shard], most: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return up to `most` images of these shards, evenly spread, and their labels in the archives.

    Images are float32 [rows, height, width, channels], labels int64 [rows]. Reads at most 20 shards, after a check of
    their checksums.
    """
    chosen = tuple(_spread(shards, _MOST_SHARDS))
    rows = sum(shard.rows for shard in chosen)
    part = SplitInfo(rows=rows, label_counts=(), shards=chosen)
    only = manifest.model_copy(update={"splits": {**manifest.splits, split: part}})
    verify(directory, only, split)
    images, numbers, _ = read_split(directory, only, split)
    kept = np.array(_spread(range(rows), most), np.int64)
    return images[kept], np.array(manifest.labels, np.int64)[numbers[kept]]


def _spread(items: Sequence[Any], most: int) -> list[Any]:
    """Return up to `most` of the items, evenly spread over them."""
    count = min(most, len(items))
    return [items[number * len(items) // count] for number in range(count)]
