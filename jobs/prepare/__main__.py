"""python -m jobs.prepare RUN_DIR: make the dataset of a run, unless it is there."""

import os

from jobs import dataset
from jobs.archive import Archive
from jobs.files import sha256_file
from jobs.prepare.config import PrepareConfig, SparkConfig
from jobs.prepare.stage import prepare
from jobs.run_dir import RunDir
from jobs.stage import read_record, run_as_process, stage_key, write_record


def main(run: RunDir) -> None:
    """Run the stage; see `jobs.prepare.stage`."""
    key = stage_key(run, "prepare")
    archives = {role: Archive.from_json(a) for role, a in read_record(run, "fetch").outputs["archives"].items()}
    config, spark = run.section("prepare", PrepareConfig), run.section("spark", SparkConfig).placed(os.environ)
    directory = prepare(config, spark, archives, run.work)
    manifest = directory / dataset.MANIFEST
    outputs = {"dataset": str(directory), "dataset_id": directory.name, "manifest_sha256": sha256_file(manifest)}
    write_record(run, "prepare", key, outputs, [manifest])


if __name__ == "__main__":
    run_as_process("prepare", main)
