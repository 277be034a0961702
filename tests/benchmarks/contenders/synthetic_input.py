"""python -m tests.benchmarks.contenders.synthetic_input RUN_DIR: the train stage on input in memory.

Everything but reading is as in the stage: each `steps_per_execution` call gets the same random rows, made once.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from jobs.run_dir import RunDir
from jobs.stage import run_as_process
from jobs.tensorflow_import import import_tensorflow


def main(run: RunDir) -> None:
    """Run the stage on synthetic rows."""
    import_tensorflow(run.logs / "tensorflow.log")
    from jobs.train.config import TrainConfig
    from jobs.train.data.calls import GraphCall, plan_calls
    from jobs.train.telemetry.heartbeat import Heartbeat
    from jobs.train.worker import Training

    class Synthetic(Training):
        """A training that never waits for rows."""

        def _calls(self, epoch: int, step: int) -> Iterator[tuple[GraphCall, float]]:
            values = int(np.prod(self.network.model.input_shape[1:]))
            made: dict[tuple[int, int], GraphCall] = {}
            planned = plan_calls(self.order, epoch, step, self.total_steps, self.config.log_every, self.max_steps)
            for call in planned:
                shape = call.last - call.first, self.order.batch_rows(call.first)
                if shape not in made:
                    made[shape] = synthetic_call(shape, values)
                same = made[shape]
                yield replace(same, first_step=call.first_step, measured=call.measured), 0.0

    def synthetic_call(shape: tuple[int, int], values: int) -> GraphCall:
        random = np.random.default_rng(0)
        images = random.random((*shape, values), np.float32)
        labels = random.integers(0, 2, shape, np.int32)
        return GraphCall(
            first_step=0,
            images=images,
            labels=labels,
            weights=np.ones(shape, np.float32),
            indices=np.arange(labels.size),
            first_row=0,
            global_rows=shape[1],
        )

    Synthetic(run, run.section("train", TrainConfig), Heartbeat(0, {})).run()


if __name__ == "__main__":
    run_as_process("train", main)
