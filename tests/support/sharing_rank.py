"""python -m tests.support.sharing_rank FOLDER RANK RANKS [no-memfd] [hold | lock]: one rank of a node that reads rows.

FOLDER has `manifest.json` and the shards of `tests.support.tiny_shards`. The rank reads two epochs and writes what it
saw to `RANK.json`: which shards it decoded, which rows it got, and whether it shares them. The ranks exchange offers as
files there. With `hold` it stays in the middle of the first shards that it decodes, with `lock` in the middle of a
claim; `RANK.held` shows that it is there.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.dataset import Manifest
from jobs.train.config import TrainConfig
from jobs.train.data.calls import plan_calls, read_epochs
from jobs.train.data.order import RowOrder
from jobs.train.data.reader import Rows
from jobs.train.data.row_cache import ALIGNMENT, RowCache, shared_cache
from jobs.train.data.shard_cache import ShardStore

EPOCHS = 2


def main(folder: Path, rank: int, ranks: int, *flags: str) -> None:
    if "no-memfd" in flags:  # as in a Python that was built for an older C library
        del os.memfd_create

    def gather(values: NDArray[Any]) -> NDArray[Any]:
        (folder / f"{rank}.tmp").write_text(json.dumps(values.tolist()))
        (folder / f"{rank}.tmp").rename(folder / f"{rank}.offer")
        offers = [folder / f"{number}.offer" for number in range(ranks)]
        while not all(offer.exists() for offer in offers):
            time.sleep(0.01)
        return np.concatenate([json.loads(offer.read_text()) for offer in offers])

    manifest = Manifest.model_validate_json((folder / "manifest.json").read_bytes())
    memory = shared_cache(TrainConfig(epochs=1, cache="always"), manifest, rank, ranks, gather)
    decoded: list[int] = []
    insert = RowCache.insert

    def stay() -> None:
        (folder / f"{rank}.held").touch()
        time.sleep(600)

    def watched(self: RowCache, shard: int, rows: Rows) -> None:
        decoded.append(shard)
        if "hold" in flags:
            stay()
        time.sleep(0.005)  # so that the other ranks get their turns
        insert(self, shard, rows)

    RowCache.insert = watched  # type: ignore[method-assign]
    if "lock" in flags and memory:
        with memory.lock:
            stay()
    store = ShardStore(folder, manifest, "train", threads=2, keep=True, memory=memory)
    result = {"decoded": decoded, "rows": read(store, rank, ranks), "shares": memory is not None}
    (folder / f"{rank}.json").write_text(json.dumps(result))


def read(store: ShardStore, rank: int, ranks: int) -> list[list[int]]:
    """Return the rows of each epoch, after a look at their pixels and labels."""
    order = RowOrder(shard_rows=store.shard_rows, batch_size=8, seed=1, shuffle_shards=2)
    plans = [
        (epoch, list(plan_calls(order, epoch, epoch * order.steps, (epoch + 1) * order.steps, 5, 3)))
        for epoch in range(EPOCHS)
    ]
    rows: list[list[int]] = [[] for _ in range(EPOCHS)]
    for call in read_epochs(store, order, plans, rank, ranks):
        rows[call.first_step // order.steps] += call.indices.tolist()
        assert (call.images[..., 0].ravel() == (call.indices / 1000).astype(np.float32)).all()
        assert (call.labels.ravel() == call.indices % 3).all()
        assert call.images.ctypes.data % ALIGNMENT == 0
    return rows


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
