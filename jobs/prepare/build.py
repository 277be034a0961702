"""Make a dataset of one training pair: check, inflate, survey, write the Parquet files and the manifest."""

import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from jobs.archive import Archive
from jobs.dataset import SPLITS, Shard, Split, shards_of
from jobs.errors import IdxtrainError, InputError
from jobs.prepare.archives import inflated, pair_of, read_headers
from jobs.prepare.config import PrepareConfig, SparkConfig
from jobs.prepare.decode import Decoder, Written
from jobs.prepare.disk_space import require_room
from jobs.prepare.idx import Header
from jobs.prepare.manifest import write_manifest
from jobs.prepare.plan import DatasetPlan, even_ranges, plan_dataset
from jobs.prepare.spark import Spark
from jobs.prepare.survey import Survey, add_counts, merge

_SURVEY_BYTES = 16 << 20  # of stored pixels per task: limits the memory of an executor


def build(
    config: PrepareConfig, spark_config: SparkConfig, archives: Mapping[str, Archive], directory: Path, name: str
) -> None:
    """Fill `directory` (empty, not yet under its final name) with the dataset. Raises InputError for bad archives."""
    headers = read_headers(archives)
    images = headers["train_images"]
    plan = plan_dataset(config, images.rows, headers["test_images"].rows, images.row_shape)
    require_room(directory, archives, headers, plan)
    scratch = directory / "scratch"
    scratch.mkdir()
    with Spark(spark_config) as spark, inflated(archives, scratch) as plain:
        train, test = (pair_of(split, archives, plain, headers) for split in ("train", "test"))
        decoder = Decoder(plan=plan, train=train, test=test)
        findings = merge(plan, survey_splits(spark, decoder, images), images.dtype, test.label_archive)
        for split in SPLITS:
            (directory / split).mkdir()
        write = partial(decoder.write, findings.normalization, directory)
        written = spark.collect("prepare: writing Parquet", write, plan.shards)
        shards = take_shards(decoder, written, findings.label_counts)
        versions = spark.versions()
    shutil.rmtree(scratch)
    check_shards(directory, plan, shards)
    write_manifest(
        directory,
        dataset_id=name,
        images=images,
        findings=findings,
        shards={split: shards_of(split, shards) for split in SPLITS},
        archives=archives,
        options={"validation_from": plan.validation_from, "rows_per_shard": plan.rows_per_shard},
        versions=versions,
    )


def survey_splits(spark: Spark, decoder: Decoder, images: Header) -> dict[Split, list[Survey]]:
    """Survey all rows of a decoder; return the surveys of each split's ranges, in order."""
    step = max(1, _SURVEY_BYTES // images.row_bytes)
    tasks = [(split, *bounds) for split, rows in decoder.plan.rows.items() for bounds in even_ranges(rows, step)]
    surveys = spark.collect("prepare: surveying", decoder.survey, tasks)
    by_split: dict[Split, list[Survey]] = {split: [] for split in SPLITS}
    for (split, *_), survey in zip(tasks, surveys, strict=True):
        by_split[split].append(survey)
    return by_split


def take_shards(decoder: Decoder, written: Sequence[Written], surveyed: Mapping[Split, Sequence[int]]) -> list[Shard]:
    """Return the shards that were written. Raises InputError unless their label counts are those surveyed."""
    for split in SPLITS:
        counts = add_counts([each.label_counts for each in written if shards_of(split, [each.shard])])
        if counts.tolist() != np.trim_zeros(np.array(surveyed[split]), "b").tolist():
            raise InputError(
                f"{decoder.pair(split).label_archive}: found other labels while writing than while surveying, "
                "expected an archive that does not change; fix: run again"
            )
    return [each.shard for each in written]


def check_shards(directory: Path, plan: DatasetPlan, shards: Sequence[Shard]) -> None:
    """Check that each shard is here: an executor on another node may have written to another file system."""
    for planned, shard in zip(plan.shards, shards, strict=True):
        try:
            footer = pq.read_metadata(directory / shard.path)
        except OSError as error:
            raise IdxtrainError(
                f"{directory / shard.path}: an executor wrote it, but it cannot be read here ({error.strerror}); fix: "
                "give a --work on a file system that all executors share"
            ) from error
        if (footer.num_rows, footer.num_row_groups) != (planned.rows, 1):
            raise IdxtrainError(
                f"{directory / shard.path}: found {footer.num_rows} rows in {footer.num_row_groups} row groups, "
                f"expected {planned.rows} in 1; fix: run prepare again"
            )
