"""python -m jobs.train RUN_DIR: be one rank of a training; alone, or one of many that a launcher starts."""

from jobs.stage import run_as_process
from jobs.train.worker import train

if __name__ == "__main__":
    run_as_process("train", train)
