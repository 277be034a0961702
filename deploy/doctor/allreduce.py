"""One rank of a small allreduce: horovodrun … python -m deploy.doctor.allreduce. Rank 0 prints what it measured."""

import json
import statistics
import time
from typing import Any

_VALUES = 4_000_000  # float32: 16 MB
_REPEATS = 10
_SMALL_REPEATS = 50


def main() -> None:
    """Sum 16 MB and single values over all ranks, through what a training sums with."""
    import numpy as np
    import tensorflow as tf

    from jobs.train import devices
    from jobs.train.collective import Collective

    collective = Collective()
    device = devices.configure(tf, collective.local_rank, collective.local_size)
    # Small whole numbers, so every sum is exact; each place its own, so that a shifted buffer shows.
    places = np.arange(_VALUES, dtype=np.float32) % 1000
    large = tf.constant(places * (collective.rank + 1))
    ranks = collective.world_size
    right = np.array_equal(collective.sum(large, "doctor.large").numpy(), places * (ranks * (ranks + 1) // 2))
    everywhere = bool(collective.gather(np.array([right], np.int32)).all())
    large_seconds = _median_seconds(collective, large, "doctor.large", _REPEATS)
    small_seconds = _median_seconds(collective, tf.constant([1.0]), "doctor.small", _SMALL_REPEATS)
    if collective.rank == 0:
        result = {
            "right": everywhere,
            "device": device,
            "megabytes_per_second": _VALUES * 4 / 1e6 / large_seconds,
            "milliseconds": small_seconds * 1e3,
        }
        print(json.dumps(result), flush=True)
    collective.barrier()


def _median_seconds(collective: Any, tensor: Any, name: str, repeats: int) -> float:
    """Return a typical time of one sum; `.numpy()` waits until it is there."""
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        collective.sum(tensor, name).numpy()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
