"""Validation tells how far it is."""

from typing import Any

from numpy.typing import NDArray

from jobs.train import validation
from jobs.train.data.feed import ShardStore
from jobs.train.validation import Validation
from tests.support.prepared import Made


class Alone:
    """One rank, as `jobs.train.compute.collective` has it."""

    rank, world_size = 0, 1

    def gather(self, values: NDArray[Any]) -> NDArray[Any]:
        return values


def test_each_shard_and_each_batch_is_progress(small: Made, monkeypatch: Any) -> None:
    monkeypatch.setattr(validation, "_BATCH", 7)
    told: list[str] = []
    rows = small.manifest.splits["validation"].rows
    shards = len(small.manifest.splits["validation"].shards)
    store = ShardStore(small.directory, small.manifest, "validation", 2, False, lambda: told.append("shard"))
    alone: Any = Alone()
    result = Validation(store).run(lambda images, labels: (len(labels), 0.0), alone, lambda: told.append("batch"))
    assert result["errors"] == 0
    assert told.count("shard") == shards
    assert told.count("batch") == -(-rows // 7)
