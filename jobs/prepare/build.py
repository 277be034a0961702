"""Make a dataset: check the archives, inflate them once, survey them, write the Parquet files, write the manifest."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from jobs import dataset
from jobs.archive import Archive
from jobs.dataset import Split
from jobs.errors import IdxtrainError, InputError
from jobs.files import sealed, write_json
from jobs.prepare.archives import Pair, image_shape, inflated, read_headers
from jobs.prepare.config import PrepareConfig, SparkConfig
from jobs.prepare.decode import Decoder, Written
from jobs.prepare.disk_space import require_room
from jobs.prepare.idx import Header
from jobs.prepare.plan import DatasetPlan, even_ranges, plan_dataset
from jobs.prepare.spark import Spark
from jobs.prepare.survey import Findings, Survey, add_counts, merge

log = logging.getLogger("idxtrain")

_MOST_LISTED = 20  # labels in one line of the log
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
    with Spark(spark_config) as spark, inflated(archives, scratch) as plain:
        train, test = (_pair(archives, plain, headers, split) for split in ("train", "test"))
        decoder = Decoder(plan, train, test)
        found = _survey(spark, decoder, images)
        for split in dataset.SPLITS:
            (directory / split).mkdir()
        write = partial(decoder.write, found.normalization, directory)
        shards = take_shards(decoder, spark.collect("prepare: writing Parquet", write, plan.shards), found.label_counts)
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


def take_shards(
    decoder: Decoder, written: Sequence[Written], surveyed: Mapping[Split, Sequence[int]]
) -> list[dataset.Shard]:
    """Return the shards that were written. Raises InputError where their label counts are not those surveyed."""
    for split in dataset.SPLITS:
        counts = add_counts([each.label_counts for each in written if each.shard.path.startswith(f"{split}/")])
        if counts.tolist() != np.trim_zeros(np.array(surveyed[split]), "b").tolist():
            raise InputError(
                f"{decoder.pair(split).label_archive}: found other labels when they were written than when they were "
                "surveyed, expected an archive that nobody changes; run again"
            )
    return [each.shard for each in written]


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
    counts = {split: manifest.splits[split].label_counts for split in dataset.SPLITS}
    totals = [sum(column) for column in zip(*counts.values(), strict=True)]
    empty = totals.count(0)
    sparse = empty > max(_MOST_LISTED, manifest.classes / 2)
    if sparse:
        log.warning(
            "prepare: %s of %s classes have no image at all; is %d really a label?",
            f"{empty:,}", f"{manifest.classes:,}", manifest.classes - 1,
        )  # fmt: skip
    for split in dataset.SPLITS:
        missing = [label for label, n in enumerate(counts[split]) if not n and (totals[label] or not sparse)]
        if missing and manifest.splits[split].rows:
            log.warning("prepare: no image of class %s in the %s split", _listed(missing), split)
    if manifest.duplicates.test_images_in_train:
        log.warning(
            "prepare: %d test images are also in the training archive, first (test row, training row): %s",
            manifest.duplicates.test_images_in_train, manifest.duplicates.examples[0],
        )  # fmt: skip


def _listed(labels: Sequence[int]) -> str:
    more = f" and {len(labels) - _MOST_LISTED:,} more" if len(labels) > _MOST_LISTED else ""
    return ", ".join(map(str, labels[:_MOST_LISTED])) + more
