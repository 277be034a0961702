"""python -m tests.benchmarks.peers.petastorm_schema DATASET BATCH: rows/s of Petastorm's own schema to TensorFlow.

The schema of Petastorm's MNIST example: images as `NdarrayCodec`, written by `materialize_dataset`, read by
`make_reader` and `make_petastorm_dataset`. One epoch of the train split with shuffled row groups, from opening to the
last batch. Writing is not timed.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from petastorm import make_reader
from petastorm.codecs import NdarrayCodec, ScalarCodec
from petastorm.etl.dataset_metadata import materialize_dataset
from petastorm.tf_utils import make_petastorm_dataset
from petastorm.unischema import Unischema, UnischemaField, dict_to_spark_row
from pyspark.sql import SparkSession
from pyspark.sql.types import IntegerType

from jobs.dataset import read_manifest, read_split
from jobs.prepare.java import find_java_home

_ROWS = 2500  # of a row group, as in the dataset


def main(dataset: Path, batch: int, folder: Path) -> None:
    """Write and read; print the rate."""
    url = (folder / "schema").resolve().as_uri()
    write(dataset, url)
    tf.constant(0)  # starts TensorFlow
    begin = time.perf_counter()
    with make_reader(url, num_epochs=1, workers_count=2) as reader:
        rows = sum(int(each.label.shape[0]) for each in make_petastorm_dataset(reader).batch(batch))
        rate = rows / (time.perf_counter() - begin)
    print(json.dumps({"rows": rows, "rows_per_second": rate}))


def write(dataset: Path, url: str) -> None:
    """Write the train split as Petastorm's documentation does."""
    manifest = read_manifest(dataset)
    images, labels, _ = read_split(dataset, manifest, "train")
    pixels = np.rint(images * 255).astype(np.uint8)
    schema = Unischema(
        "Images",
        [
            UnischemaField("label", np.int32, (), ScalarCodec(IntegerType()), False),
            UnischemaField("image", np.uint8, manifest.shape, NdarrayCodec(), False),
        ],
    )
    os.environ |= {"JAVA_HOME": str(find_java_home(os.environ)), "PYSPARK_PYTHON": sys.executable}
    builder = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
    spark = builder.config("spark.driver.memory", "2g").getOrCreate()
    with materialize_dataset(spark, url, schema, row_group_size_mb=8):
        rows = [
            dict_to_spark_row(schema, {"label": label, "image": image})
            for label, image in zip(labels, pixels, strict=True)
        ]
        files = -(-len(rows) // _ROWS)
        spark.createDataFrame(rows, schema.as_spark_schema()).repartition(files).write.parquet(url)
    spark.stop()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(Path(sys.argv[1]), int(sys.argv[2]), Path(scratch))
