"""One rank that adds up: python -m deploy.allreduce alone, or on several ranks under deploy.gang.

Rank 0 prints a line of JSON: what Horovod was built with, whether all sums were right, and how quick they were. Only
ever a process of its own: an extension that does not fit its TensorFlow may crash it.
"""

import json
import statistics
import time
from typing import Any

_VALUES = 4_000_000  # float32: 16 MB
_REPEATS = 10
_SMALL_REPEATS = 50


def main() -> None:
    """Sum 16 MB and single values over all ranks, through what a training sums with."""
    import horovod.tensorflow as hvd  # loads the extension, or raises ImportError
    import tensorflow as tf

    from jobs.train import devices
    from jobs.train.collective import Collective

    collective = Collective()
    device = devices.configure(tf, collective.local_rank, collective.local_size)
    result = {
        "gloo": bool(hvd.gloo_built()),
        "mpi": bool(hvd.mpi_built()),
        "nccl": bool(hvd.nccl_built()),
        "gpus": len(tf.config.list_physical_devices("GPU")),
        "device": device,
        **_measure(collective, tf),
    }
    if collective.rank == 0:
        print(json.dumps(result), flush=True)
    collective.barrier()


def _measure(collective: Any, tf: Any) -> dict[str, Any]:
    import numpy as np

    # Small whole numbers, so every sum is exact; each place its own, so that a shifted buffer shows.
    places = np.arange(_VALUES, dtype=np.float32) % 1000
    large = tf.constant(places * (collective.rank + 1))
    ranks = collective.world_size
    right = np.array_equal(collective.sum(large, "large").numpy(), places * (ranks * (ranks + 1) // 2))
    large_seconds = _median_seconds(collective, large, "large", _REPEATS)
    return {
        "right": bool(collective.gather(np.array([right], np.int32)).all()),
        "megabytes_per_second": _VALUES * 4 / 1e6 / large_seconds,
        "milliseconds": _median_seconds(collective, tf.constant([1.0]), "small", _SMALL_REPEATS) * 1e3,
    }


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
