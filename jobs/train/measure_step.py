"""python -m jobs.train.measure_step SPEC [FILE]: one rank that measures a training step, alone or under a launcher.

SPEC is a JSON file: `train` (the config), `batch_size`, `shape` (height, width, channels), `classes` and `pixels` (the
type that the dataset stores). Rank 0 prints a `StepSpeed` as one line of JSON or writes it to FILE. The images are
random; batches are gathered from memory and read ahead, as in a training.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from jobs.dataset import Manifest, PixelStatistics, PixelType
from jobs.exit_codes import exit_codes
from jobs.pixels import to_float
from jobs.step_speed import StepSpeed
from jobs.tensorflow_import import import_tensorflow
from jobs.train.config import TrainConfig
from jobs.train.data.calls import GraphCall, max_steps_per_execution
from jobs.train.data.order import RowOrder
from jobs.train.data.prefetch import read_ahead

_SECONDS = 3.0  # that each measurement takes, about
_CALLS = 5, 60  # timed, at least and at most
_CALL_SECONDS = 1.0  # of a call of several steps, about: on a slow network, as many as in a training would take minutes
_WARM_CALLS = 2  # the first traces and allocates
_POOL_BYTES = 64 << 20  # of random images
_VALIDATION_ROWS = 500  # as in `jobs.train.validation`
_SEED = 0


def main() -> None:
    """Measure on all ranks, which share the machine as in a training."""
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    file = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    import_tensorflow(Path(sys.argv[1]).with_name("tensorflow.log"))

    from jobs.train.compute.collective import Collective

    collective = Collective()
    measured = Measurement(TrainConfig.model_validate(spec["train"]), spec, collective).run()
    if collective.rank == 0:
        text = json.dumps(measured)
        if file:
            file.write_text(text + "\n", encoding="utf-8")
        else:
            print(text, flush=True)
    collective.barrier()


class Measurement:
    """One rank's network and step, and random images."""

    def __init__(self, config: TrainConfig, spec: dict[str, Any], collective: Any) -> None:
        from jobs.train.compute.network import Network
        from jobs.train.worker import configure_tensorflow, make_step

        self.config, self.collective, self.batch_size = config, collective, int(spec["batch_size"])
        self.classes = int(spec["classes"])
        self.precision, self.device = configure_tensorflow(config, collective)
        pixels = PixelStatistics(mean=0.5, std=0.3, min=0.0, max=1.0)
        shape = tuple(spec["shape"])
        manifest = Manifest.model_construct(shape=shape, classes=self.classes, pixels=pixels)
        self.network = Network(config, manifest, _SEED, self.precision)
        self.pixels: PixelType = spec["pixels"]
        self.step = make_step(config, self.network, collective, _SEED, pixels=self.pixels)
        random = np.random.default_rng(_SEED)
        values = int(np.prod(shape))
        rows = max(1, min(20_000, _POOL_BYTES // (4 * values)))
        images = random.integers(256, size=(rows, values), dtype=np.uint8)
        self.images = images if self.pixels == "uint8" else to_float(images)
        self.labels = random.integers(self.classes, size=rows, dtype=np.int32)

    def run(self) -> dict[str, Any]:
        """Return a `StepSpeed` as JSON has it, and the `device`."""
        world = self.collective.world_size
        fewer = max(world, self.batch_size // 4)
        seconds, waited = self._steps(self.batch_size)
        fewer_seconds, fewer_waited = self._steps(fewer)
        gradients = [variable.value for variable in self.network.model.trainable_variables]
        speed = StepSpeed(
            ranks=world,
            rows=-(-self.batch_size // world),
            seconds=seconds,
            waited=waited,
            fewer_rows=-(-fewer // world),
            fewer_seconds=max(0.0, fewer_seconds - fewer_waited),
            validation_row=self._validation() / _VALIDATION_ROWS,
            gradient_bytes=sum(int(np.prod(each.shape)) * 4 for each in gradients),
            gradient_seconds=self._allreduce(gradients),
            latency=self._allreduce(gradients[:1], size=1),
        )
        return speed.model_dump(mode="json") | {"device": f"{self.device}, {self.precision}"}

    def _steps(self, batch: int) -> tuple[float, float]:
        """Return the seconds of a step on a global batch, and those of them in allreduce."""
        order = RowOrder(
            shard_rows=(len(self.images),),
            batch_size=batch,
            seed=_SEED,
            shuffle_shards=1,
            slices=self.config.fixed_slices,
        )
        most = max_steps_per_execution(order, image_bytes=self.images[0].nbytes, world_size=self.collective.world_size)
        steps = min(self.config.log_every, most)
        one, _ = self._time(order, 1, self._once)
        steps = max(1, min(steps, int(_CALL_SECONDS / one)))  # the same on all ranks
        return self._time(order, steps, self._median)

    def _time(
        self, order: RowOrder, steps: int, time_of: Callable[[Callable[[], object]], float]
    ) -> tuple[float, float]:
        """Return the seconds of a step, in calls of so many, and those of them in allreduce."""
        calls = read_ahead(self._calls(order, steps))
        waits: list[float] = []
        rates = np.full(steps, 1e-6, np.float32)

        def run_call() -> None:
            waits.append(self.step(next(calls), rates).allreduce_seconds)

        seconds = time_of(run_call)
        calls.close()
        return seconds / steps, self._slowest(median(waits[_WARM_CALLS:] or waits)) / steps

    def _calls(self, order: RowOrder, steps: int) -> Iterator[GraphCall]:
        """Yield graph calls of this rank without end."""
        low, high = order.share(order.batch_size, self.collective.rank, self.collective.world_size)
        random = np.random.default_rng([_SEED, self.collective.rank])
        first = 0
        while True:
            rows = random.integers(len(self.images), size=(steps, high - low))
            yield GraphCall(
                first_step=first,
                images=self.images[rows],
                labels=self.labels[rows],
                weights=np.ones(rows.shape, np.float32),
                indices=rows.reshape(-1),
                first_row=low,
                global_rows=order.batch_size,
            )
            first += steps

    def _validation(self) -> float:
        from jobs.train.compute.evaluator import make_evaluator

        evaluate = make_evaluator(self.network.final, self.pixels)
        rows = np.arange(_VALIDATION_ROWS) % len(self.images)
        return self._median(partial(evaluate, self.images[rows], self.labels[rows]))

    def _allreduce(self, tensors: list[Any], size: int | None = None) -> float:
        """Return the seconds of an allreduce of tensors like these, or of the first `size` values of the first."""
        import tensorflow as tf

        if self.collective.world_size == 1:
            return 0.0
        values = [tf.zeros([size] if size else tensor.shape) for tensor in tensors]
        graph = tf.function(lambda: self.collective.sum_gradients(values))
        return self._median(lambda: [each.numpy() for each in graph()])

    def _once(self, run: Callable[[], object]) -> float:
        """Return the seconds of the last of a few calls on the slowest rank."""
        for _ in range(_WARM_CALLS):
            begin = time.perf_counter()
            run()
            seconds = time.perf_counter() - begin
        return self._slowest(seconds)

    def _median(self, run: Callable[[], object]) -> float:
        """Return the median seconds of a call on the slowest rank. All ranks make the same number of calls."""
        seconds = self._once(run)
        times = []
        for _ in range(int(np.clip(_SECONDS / seconds, *_CALLS))):
            begin = time.perf_counter()
            run()
            times.append(time.perf_counter() - begin)
        return self._slowest(median(times))

    def _slowest(self, seconds: float) -> float:
        return float(self.collective.gather(np.array([seconds])).max())


if __name__ == "__main__":
    with exit_codes():
        main()
