"""python -m jobs.inspect.labels RUN_DIR FOLDS: check the labels of a prepared run."""

import sys
from pathlib import Path

from jobs.errors import InputError
from jobs.exit_codes import exit_codes
from jobs.logs import keep_writing, log_to_stderr
from jobs.process import die_with_parent
from jobs.run_dir import RunDir
from jobs.tensorflow_import import import_tensorflow
from jobs.umask import keep_others_from_writing


def main(run: RunDir, folds: int) -> None:
    """Check the labels on all CPUs, or the first GPU, of this process."""
    import_tensorflow(run.logs / "tensorflow.log")
    import tensorflow as tf

    from jobs.inspect.labels.check import check_labels
    from jobs.train.compute import devices

    tf.get_logger().setLevel("ERROR")  # it warns of graphs that are built again, one for each fold
    devices.configure(tf, 0, 1)
    check_labels(run, folds)


if __name__ == "__main__":
    keep_others_from_writing()
    die_with_parent()
    keep_writing()
    log_to_stderr()
    with exit_codes():
        if len(sys.argv) != 3 or not sys.argv[2].isdecimal():
            raise InputError(f"usage: python -m jobs.inspect.labels RUN_DIR FOLDS (found {sys.argv[1:]})")
        main(RunDir(Path(sys.argv[1]).resolve()), int(sys.argv[2]))
