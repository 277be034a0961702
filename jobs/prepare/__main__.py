"""python -m jobs.prepare RUN_DIR: make the dataset of a run unless it exists."""

import os

from jobs import dataset
from jobs.files import sha256_file
from jobs.prepare.config import PrepareConfig, SparkConfig
from jobs.prepare.stage import prepare
from jobs.records import FetchOutputs, PrepareOutputs
from jobs.run_dir import RunDir
from jobs.stage import read_outputs, run_as_process, stage_key, write_record


def main(run: RunDir) -> None:
    """Run the stage; see `jobs.prepare.stage`."""
    key = stage_key(run, "prepare")
    fetched = read_outputs(run, FetchOutputs)
    config, spark = run.section("prepare", PrepareConfig), run.section("spark", SparkConfig).placed(os.environ)
    directory = prepare(config, spark, fetched.archives, run.work, fetched.description)
    manifest = directory / dataset.MANIFEST
    outputs = PrepareOutputs(dataset=directory, dataset_id=directory.name, manifest_sha256=sha256_file(manifest))
    write_record(run, "prepare", key, outputs.model_dump(mode="json"), [manifest])


if __name__ == "__main__":
    run_as_process("prepare", main)
