"""Validation reports its progress, and has the same figures at any number of ranks."""

from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from jobs.train import validation
from jobs.train.data.shard_cache import ShardStore
from jobs.train.validation import Validation
from tests.support.prepared import Made


class OneRank:
    """A collective of one rank; see `jobs.train.compute.collective`."""

    rank, world_size = 0, 1

    def gather(self, values: NDArray[Any]) -> NDArray[Any]:
        return values


def test_each_shard_and_each_batch_is_reported(small: Made, monkeypatch: Any) -> None:
    monkeypatch.setattr(validation, "_BATCH", 7)
    reported: list[str] = []
    rows = small.manifest.splits["validation"].rows
    shards = len(small.manifest.splits["validation"].shards)
    store = ShardStore(small.directory, small.manifest, "validation", 2, False, lambda: reported.append("shard"))
    one_rank: Any = OneRank()
    result = Validation(store).run(lambda images, labels: (labels, 0.0), one_rank, lambda: reported.append("batch"))
    assert result["errors"] == 0
    assert reported.count("shard") == shards
    assert reported.count("batch") == -(-rows // 7)


class Ranks:
    """One rank of several, whose results are collected."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size
        self.sums: list[NDArray[Any]] = []

    def gather(self, values: NDArray[Any]) -> NDArray[Any]:
        self.sums.append(values)
        return values


@pytest.mark.parametrize("slices", [1, 12, 1000])
def test_slices_give_the_same_batches_and_sums_at_any_number_of_ranks(
    small: Made, monkeypatch: Any, slices: int
) -> None:
    """A batch's loss is its own rounding: any other cut of the rows would give other sums."""
    monkeypatch.setattr(validation, "_BATCH", 4)
    results = set()
    for world_size in (1, 2, 5):
        batches: list[bytes] = []
        ranks = [Ranks(rank, world_size) for rank in range(world_size)]

        def evaluate(images: NDArray[Any], labels: NDArray[Any], seen: list[Any] = batches) -> tuple[Any, float]:
            seen.append(images.tobytes())
            return labels, float(np.float32(np.sin(images.sum()) + 2) / 3)

        for rank in ranks:
            store = ShardStore(small.directory, small.manifest, "validation", 1, False)
            Validation(store, slices).run(evaluate, cast(Any, rank))
        total = np.concatenate([rank.sums[0] for rank in ranks]).sum(axis=0)
        results.add((tuple(batches), *total))
    assert len(results) == 1
