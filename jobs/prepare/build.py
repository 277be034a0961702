"""Make a dataset: check the archives, inflate them once, survey them, write the Parquet files, write the manifest."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq

from jobs import dataset
from jobs.archive import Archive
from jobs.dataset import Split
from jobs.errors import IdxtrainError
from jobs.files import sealed, write_json
from jobs.prepare.archives import Pair, image_shape, inflate, read_headers
from jobs.prepare.config import PrepareConfig, SparkConfig
from jobs.prepare.decode import Decoder
from jobs.prepare.idx import Header
from jobs.prepare.plan import DatasetPlan, even_ranges, plan_dataset
from jobs.prepare.room import require_room
from jobs.prepare.spark import Spark
from jobs.prepare.survey import Findings, Survey, merge

log = logging.getLogger("idxtrain")

_SURVEY_BYTES = 16 << 20  # of stored pixels a task: bounds what an executor holds


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
    with Spark(spark_config) as spark:
        plain = inflate(archives, scratch)
        train, test = (_pair(archives, plain, headers, split) for split in ("train", "test"))
        decoder = Decoder(plan, train, test)
        found = _survey(spark, decoder, images)
        for split in dataset.SPLITS:
            (directory / split).mkdir()
        write = partial(decoder.write, found.normalization, directory)
        shards = spark.collect("prepare: writing Parquet", write, plan.shards)
        versions = spark.versions()
    shutil.rmtree(scratch)
    check_shards(directory, plan, shards)
    manifest = dataset.Manifest(
        format=dataset.FORMAT,
        dataset_id=name,
        shape=image_shape(images),
        classes=found.classes,
        splits=_splits(plan, shards, found),
        pixels=found.pixels,
        normalization=found.normalization,
        duplicates=found.duplicates,
        sources={
            role: dataset.Source(name=archive.path.name, bytes=archive.bytes, sha256=archive.sha256)
            for role, archive in archives.items()
        },
        options={"validation_from": plan.validation_from, "rows_per_shard": plan.rows_per_shard},
        versions=versions,
    )
    write_json(directory / dataset.MANIFEST, sealed(manifest.model_dump(mode="json")))
    report(manifest)


def _pair(
    archives: Mapping[str, Archive], plain: Mapping[str, Path], headers: Mapping[str, Header], split: str
) -> Pair:
    images, labels = f"{split}_images", f"{split}_labels"
    return Pair(
        plain[images],
        plain[labels],
        headers[images],
        headers[labels],
        image_archive=archives[images].path,
        label_archive=archives[labels].path,
    )


def _survey(spark: Spark, decoder: Decoder, images: Header) -> Findings:
    return merge(decoder.plan, survey_splits(spark, decoder, images), images.dtype, decoder.test.label_archive)


def survey_splits(spark: Spark, decoder: Decoder, images: Header) -> dict[Split, list[Survey]]:
    """Survey all rows that a decoder has: of each split, the surveys of its ranges, in order."""
    step = max(1, _SURVEY_BYTES // images.row_bytes)
    tasks = [(split, *bounds) for split, rows in decoder.plan.rows.items() for bounds in even_ranges(rows, step)]
    surveys = spark.collect("prepare: surveying", decoder.survey, tasks)
    by_split: dict[Split, list[Survey]] = {split: [] for split in dataset.SPLITS}
    for (split, *_), part in zip(tasks, surveys, strict=True):
        by_split[split].append(part)
    return by_split


def check_shards(directory: Path, plan: DatasetPlan, shards: Sequence[dataset.Shard]) -> None:
    """Look at what really lies there: an executor on another node may have written to another file system."""
    for planned, shard in zip(plan.shards, shards, strict=True):
        try:
            footer = pq.read_metadata(directory / shard.path)
        except OSError as error:
            raise IdxtrainError(
                f"{directory / shard.path}: an executor wrote it but it cannot be read here ({error.strerror}); the "
                "work directory must lie on a file system that all executors share"
            ) from error
        if (footer.num_rows, footer.num_row_groups) != (planned.rows, 1):
            raise IdxtrainError(
                f"{directory / shard.path}: found {footer.num_rows} rows in {footer.num_row_groups} row groups, "
                f"expected {planned.rows} in 1; run prepare again"
            )


def _splits(plan: DatasetPlan, shards: Sequence[dataset.Shard], found: Findings) -> dict[Split, dataset.SplitInfo]:
    return {
        split: dataset.SplitInfo(
            rows=plan.rows[split],
            label_counts=found.label_counts[split],
            shards=tuple(shard for shard in shards if shard.path.startswith(f"{split}/")),
        )
        for split in dataset.SPLITS
    }


def report(manifest: dataset.Manifest) -> None:
    """Log what a dataset holds, and what is odd about it."""
    height, width, channels = manifest.shape
    rows = " / ".join(f"{manifest.splits[split].rows:,} {split}" for split in dataset.SPLITS)
    log.info(
        "prepare: dataset %s: %s images of %d × %d × %d in %d classes, pixel mean %.4f, deviation %.4f",
        manifest.dataset_id, rows, height, width, channels, manifest.classes, manifest.pixels.mean, manifest.pixels.std,
    )  # fmt: skip
    for split in dataset.SPLITS:
        missing = [label for label, count in enumerate(manifest.splits[split].label_counts) if not count]
        if missing and manifest.splits[split].rows:
            log.warning("prepare: no image of class %s in the %s split", ", ".join(map(str, missing)), split)
    if manifest.duplicates.test_images_in_train:
        log.warning(
            "prepare: %d test images are also in the training archive, first (test row, training row): %s",
            manifest.duplicates.test_images_in_train, manifest.duplicates.examples[0],
        )  # fmt: skip
