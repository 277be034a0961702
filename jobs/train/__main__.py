"""python -m jobs.train RUN_DIR: be one rank of a training; alone, or one of many that a launcher starts."""

from jobs.run_dir import RunDir
from jobs.stage import run_as_process
from jobs.tensorflow_import import import_tensorflow


def main(run: RunDir) -> None:
    """Run the stage; see `jobs.train.worker`."""
    import_tensorflow(run.logs / "tensorflow.log")
    from jobs.train.worker import train

    train(run)


if __name__ == "__main__":
    run_as_process("train", main)
