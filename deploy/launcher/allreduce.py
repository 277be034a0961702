"""python -m deploy.launcher.allreduce [FILE]: one rank of an allreduce test, alone or under deploy.launcher.

Rank 0 prints a line of JSON or writes it to FILE: what Horovod was built with, whether all sums are correct, and the
speed. A training on several nodes begins with this test and a FILE; incorrect sums are then an error. The test is
always a process of its own, because a Horovod that does not fit its TensorFlow may crash it.
"""

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from jobs.errors import IdxtrainError
from jobs.exit_codes import exit_codes
from jobs.tensorflow_import import import_tensorflow

_VALUES = 4_000_000  # float32: 16 MB
_REPEATS, _SMALL_REPEATS = 10, 50
_SHORT_REPEATS = 3, 10  # before a training


def main() -> None:
    """Sum 16 MB and single values over all ranks with the collective that trainings use.

    Raises ImportError if the Horovod extension does not load, IdxtrainError for incorrect sums if there is a FILE.
    """
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    if file:
        import_tensorflow(file.with_name("tensorflow.log"))
    import horovod.tensorflow as hvd  # loads the extension
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
        **_measure(collective, tf, *(_SHORT_REPEATS if file else (_REPEATS, _SMALL_REPEATS))),
    }
    if collective.rank == 0 and file:
        file.write_text(json.dumps(result) + "\n", encoding="utf-8")
        _report(collective.world_size, result)
    elif collective.rank == 0:
        print(json.dumps(result), flush=True)
    collective.barrier()


def _report(ranks: int, result: dict[str, Any]) -> None:
    if not result["right"]:
        raise IdxtrainError("train: allreduce: found incorrect sums, expected exact ones; fix: run `idxtrain doctor`")
    speed = f"16 MB at {result['megabytes_per_second']:.0f} MB/s, latency {result['milliseconds']:.2f} ms"
    print(f"train: allreduce over {ranks} ranks: {speed}", file=sys.stderr, flush=True)


def _measure(collective: Any, tf: Any, repeats: int, small_repeats: int) -> dict[str, Any]:
    import numpy as np

    # Small integers, so that every sum is exact. Neighbors differ, so that a shifted buffer is noticed.
    pattern = np.arange(_VALUES, dtype=np.float32) % 1000
    large = tf.constant(pattern * (collective.rank + 1))
    ranks = collective.world_size
    is_exact = np.array_equal(collective.sum(large, "large").numpy(), pattern * (ranks * (ranks + 1) // 2))
    large_seconds = _median_seconds(collective, large, "large", repeats)
    speed = _VALUES * 4 / 1e6 / large_seconds
    return {
        "right": bool(collective.gather(np.array([is_exact], np.int32)).all()),
        "megabytes_per_second": speed,
        "by_rank": collective.gather(np.array([speed], np.float64)).tolist(),
        "milliseconds": _median_seconds(collective, tf.constant([1.0]), "small", small_repeats) * 1e3,
    }


def _median_seconds(collective: Any, tensor: Any, name: str, repeats: int) -> float:
    """Return the median time of one sum, until its result is in host memory."""
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        collective.sum(tensor, name).numpy()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


if __name__ == "__main__":
    with exit_codes():
        main()
