"""python -m deploy.launcher.allreduce [FILE]: one rank that adds up, alone or under deploy.launcher.

Rank 0 prints a line of JSON, or writes it to the file: what Horovod was built with, whether all sums were right, and
how quick they were. With a file, which is how a training on several nodes begins, wrong sums are an error. Only ever a
process of its own: an extension that does not fit its TensorFlow may crash it.
"""

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from jobs.tensorflow_import import import_tensorflow

_VALUES = 4_000_000  # float32: 16 MB
_REPEATS, _SMALL_REPEATS = 10, 50
_QUICK_REPEATS = 3, 10


def main() -> None:
    """Sum 16 MB and single values over all ranks, through what a training sums with."""
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    if file:
        import_tensorflow(file.with_name("tensorflow.log"))
    import horovod.tensorflow as hvd  # loads the extension, or raises ImportError
    import tensorflow as tf

    from jobs.train.compute import devices
    from jobs.train.compute.collective import Collective

    collective = Collective()
    device = devices.configure(tf, collective.local_rank, collective.local_size)
    result = {
        "gloo": bool(hvd.gloo_built()),
        "mpi": bool(hvd.mpi_built()),
        "nccl": bool(hvd.nccl_built()),
        "gpus": len(tf.config.list_physical_devices("GPU")),
        "device": device,
        **_measure(collective, tf, *(_QUICK_REPEATS if file else (_REPEATS, _SMALL_REPEATS))),
    }
    if collective.rank == 0 and file:
        file.write_text(json.dumps(result) + "\n", encoding="utf-8")
        _tell(collective.world_size, result)
    elif collective.rank == 0:
        print(json.dumps(result), flush=True)
    collective.barrier()


def _tell(ranks: int, result: dict[str, Any]) -> None:
    speed = f"16 MB at {result['megabytes_per_second']:.0f} MB/s, latency {result['milliseconds']:.2f} ms"
    if not result["right"]:
        sys.exit("idxtrain: train: an allreduce gives wrong sums; `idxtrain doctor` tells more")
    print(f"train: allreduce over {ranks} ranks: {speed}", file=sys.stderr, flush=True)


def _measure(collective: Any, tf: Any, repeats: int, small_repeats: int) -> dict[str, Any]:
    import numpy as np

    # Small whole numbers, so every sum is exact; each place its own, so that a shifted buffer shows.
    places = np.arange(_VALUES, dtype=np.float32) % 1000
    large = tf.constant(places * (collective.rank + 1))
    ranks = collective.world_size
    right = np.array_equal(collective.sum(large, "large").numpy(), places * (ranks * (ranks + 1) // 2))
    large_seconds = _median_seconds(collective, large, "large", repeats)
    speed = _VALUES * 4 / 1e6 / large_seconds
    return {
        "right": bool(collective.gather(np.array([right], np.int32)).all()),
        "megabytes_per_second": speed,
        "by_rank": collective.gather(np.array([speed], np.float64)).tolist(),
        "milliseconds": _median_seconds(collective, tf.constant([1.0]), "small", small_repeats) * 1e3,
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
