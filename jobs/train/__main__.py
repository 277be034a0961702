"""python -m jobs.train RUN_DIR: be one rank of a training; alone, or one of many that a launcher starts."""

import os

from jobs.run_dir import RunDir
from jobs.stage import launched_rank, run_as_process
from jobs.tensorflow_import import import_tensorflow
from jobs.train.telemetry.heartbeat import Heartbeat


def main(run: RunDir) -> None:
    """Run the stage; see `jobs.train.worker`."""
    # Before all that takes time: by its heartbeat, whoever trains the run next knows that this process is still there.
    heartbeat = Heartbeat(launched_rank(), os.environ, (run.path, run.checkpoints))
    import_tensorflow(run.logs / "tensorflow.log")
    from jobs.train.worker import train

    train(run, heartbeat)


if __name__ == "__main__":
    run_as_process("train", main)
