"""Validation reports its progress."""

from typing import Any

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
    result = Validation(store).run(
        lambda images, labels: (len(labels), 0.0), one_rank, lambda: reported.append("batch")
    )
    assert result["errors"] == 0
    assert reported.count("shard") == shards
    assert reported.count("batch") == -(-rows // 7)
