"""Prepare on a standalone Spark cluster: the same bytes as on one machine, also if a worker is lost."""

import time
from pathlib import Path

import pytest

from jobs.stage import dataset_of
from tests.support.prepared import Made, new_run, parquet_bytes, start
from tests.support.spark_cluster import spark_cluster


@pytest.mark.long
def test_a_spark_cluster_that_loses_a_worker_in_the_middle_makes_the_same_bytes(small: Made, tmp_path: Path) -> None:
    with spark_cluster(tmp_path, workers=2) as (url, workers):
        properties = {"spark.driver.host": "127.0.0.1", "spark.executor.memory": "512m"}
        run = new_run(tmp_path, small.archives, small.config, master=url, properties=properties)
        with start(run) as process:
            while not list(run.work.datasets.glob(".tmp-*/train/part-*.parquet")):
                assert process.poll() is None
                time.sleep(0.01)
            with workers[0].frozen():  # so that the work is not done before the other worker is lost
                while not workers[1].executors:
                    time.sleep(0.01)
                assert workers[1].kill() == 1
                assert not (run.work.datasets / small.directory.name).exists(), "it was still at work"
            _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    directory = dataset_of(run)
    assert directory.name == small.directory.name
    assert parquet_bytes(directory) == parquet_bytes(small.directory)
