"""python -m jobs.train RUN_DIR: run one rank of a training, alone or as one of many that a launcher starts."""

import os

from jobs.run_dir import RunDir
from jobs.stage import launched_rank, run_as_process
from jobs.tensorflow_import import import_tensorflow
from jobs.train.telemetry.heartbeat import Heartbeat


def main(run: RunDir) -> None:
    """Run the stage; see `jobs.train.worker`."""
    # First of all: a launcher that trains the run next sees by the heartbeat that this process still runs.
    heartbeat = Heartbeat(launched_rank(), os.environ, (run.path, run.checkpoints))
    import_tensorflow(run.logs / "tensorflow.log")
    from jobs.train.worker import train

    train(run, heartbeat)


if __name__ == "__main__":
    run_as_process("train", main)
