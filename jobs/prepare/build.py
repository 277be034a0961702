"""Make a dataset of one training pair: check, assign rows to splits, survey, write Parquet files and the manifest."""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from jobs.dataset import MANIFEST, SPLITS, Shard, Split, shards_of
from jobs.dataset_store import StoreFolder, open_folder
from jobs.errors import IdxtrainError
from jobs.files import remove_unfinished
from jobs.prepare.archives import inflated, pair_of, read_headers
from jobs.prepare.assign import assign
from jobs.prepare.config import PrepareConfig, SparkConfig
from jobs.prepare.decode import Decoder, Written, changed_labels
from jobs.prepare.digests import join_files, read_digests
from jobs.prepare.disk_space import require_room
from jobs.prepare.exclusions import read_exclusions
from jobs.prepare.findings.look import look
from jobs.prepare.findings.rows import take_views
from jobs.prepare.idx import Header
from jobs.prepare.inputs import Inputs, check_pixels
from jobs.prepare.manifest import Content, write_manifest
from jobs.prepare.plan import DatasetPlan, even_ranges, plan_dataset
from jobs.prepare.row_files import RowFiles
from jobs.prepare.spark import Spark
from jobs.prepare.survey import NOTHING, Moments, merge

_SCRATCH = "scratch"
_SURVEY_BYTES = 16 << 20  # of stored pixels per task: limits the memory of an executor


def build(inputs: Inputs, spark_config: SparkConfig, directory: Path) -> None:
    """Fill `directory` (empty, not yet under its final name) with the dataset. Raises InputError for bad archives."""
    _fill(inputs, spark_config, directory)
    # Only now no file in it is mapped any more: NFS keeps a removed file as long as it is, and the folder with it.
    shutil.rmtree(directory / _SCRATCH)


def _fill(inputs: Inputs, spark_config: SparkConfig, directory: Path) -> None:
    archives = inputs.archives
    headers = read_headers(archives, inputs.label_column)
    images = headers["train_images"]
    check_pixels(inputs.config, headers)
    exclusions = read_exclusions(inputs.config.exclude)
    exclusions.require_tags([""])
    excluded = exclusions.of("", images.rows)
    test_rows = None if inputs.makes_test else headers["test_images"].rows
    plan = plan_dataset(inputs.config, images.rows, test_rows, images.row_shape, len(excluded))
    store = open_store(inputs.config, inputs.dataset_id, MANIFEST)
    require_room(directory, archives, headers, plan, keeps_shards=store is None)
    scratch = directory / _SCRATCH
    scratch.mkdir()
    labels, pictures = ({k: v for k, v in archives.items() if k.endswith(end)} for end in ("_labels", "_images"))
    # Labels are small: all that they decide is decided, or refused, before Spark starts.
    with ExitStack() as unchanged:
        plain = unchanged.enter_context(inflated(labels, scratch))
        assigned = assign(inputs, plan, headers, plain, np.array(excluded, np.int64), scratch)
        plan = plan.with_rows(assigned.rows)
        with Spark(spark_config) as spark:
            plain_images = unchanged.enter_context(inflated(pictures, scratch, spark.spread))
            train, test = (
                pair_of(split, archives, plain | plain_images, headers, inputs.label_column)
                for split in ("train", "train" if inputs.makes_test else "test")
            )
            decoder = Decoder(
                rows=RowFiles(scratch),
                train=train,
                test=test,
                classes=assigned.classes,
                orientation=inputs.orientation,
                pixels=inputs.config.pixels,
                views=True,
                store=store,
            )
            moments = survey_splits(spark, decoder, plan, images)
            indices = np.concatenate([decoder.rows.whole(split) for split in SPLITS])
            digests = read_digests(join_files(map(decoder.rows.digests, SPLITS), scratch / "digests"))
            findings = merge(moments, indices, digests, images.dtype, plan.rows["test"])
            for split in SPLITS if store is None else ():
                (directory / split).mkdir()
            write = partial(decoder.write, findings.normalization, directory)
            written = spark.collect("prepare: writing Parquet", write, plan.shards)
            shards = take_shards(decoder, written, assigned.label_counts)
            inputs.require_unchanged()
            check_shards(directory, plan, shards, store)
            versions = spark.versions()
        # Spark has ended: no executor writes any more, and the look takes memory of its own.
        for split in SPLITS:
            remove_unfinished(directory / split)
        content = Content(
            images=images,
            classes=assigned.classes,
            label_counts=assigned.label_counts,
            findings=findings,
            shards={split: shards_of(split, shards) for split in SPLITS},
            options=_decisions(inputs, plan, assigned.excluded, test_rows),
            versions=versions,
        )
        manifest = write_manifest(directory, inputs, content)
        views = take_views(each.view for each in written if each.view)
        look(directory, manifest, views, digests, partial(decoder.read, findings.normalization), scratch)
        if store is not None:
            store.finish(directory, MANIFEST, shards)


def _decisions(inputs: Inputs, plan: DatasetPlan, excluded: int, test_rows: int | None) -> dict[str, int | str]:
    """Return what a reader of the manifest must know of how the splits were made."""
    decisions: dict[str, int | str] = {"rows_per_shard": plan.rows_per_shard}
    if inputs.makes_test:
        decisions["test_from"] = "training archive, " + ("whole groups" if inputs.config.groups else "stratified")
    if excluded:
        decisions["excluded_rows"] = excluded
    if test_rows is not None and test_rows > plan.rows["test"]:
        decisions["ignored_test_rows"] = test_rows - plan.rows["test"]
    return decisions


def survey_splits(spark: Spark, decoder: Decoder, plan: DatasetPlan, images: Header) -> dict[Split, Moments]:
    """Survey all rows of a decoder; return the moments of each split, and write the file of its digests."""
    step = max(1, _SURVEY_BYTES // images.row_bytes)
    tasks = [(split, *bounds) for split, rows in plan.rows.items() for bounds in even_ranges(rows, step)]
    surveyed = spark.collect("prepare: surveying", decoder.survey, tasks)
    moments: dict[Split, Moments] = dict.fromkeys(SPLITS, NOTHING)
    files: dict[Split, list[Path]] = {split: [] for split in SPLITS}
    for (split, start, _), each in zip(tasks, surveyed, strict=True):
        moments[split] += each
        files[split].append(decoder.digest_file(split, start))
    for split, pieces in files.items():
        join_files(pieces, decoder.rows.digests(split))
        for piece in pieces:
            piece.unlink()
    return moments


def take_shards(decoder: Decoder, written: Sequence[Written], expected: Mapping[Split, NDArray[Any]]) -> list[Shard]:
    """Return the shards that were written. Raises InputError unless their label counts are the expected ones."""
    for split in SPLITS:
        counts = np.zeros_like(expected[split])
        for each in written:
            if shards_of(split, [each.shard]):
                counts[each.classes] += each.rows
        if not np.array_equal(counts, expected[split]):
            raise changed_labels(decoder.pair(split))
    return [each.shard for each in written]


def open_store(config: PrepareConfig, folder: str, description: str) -> StoreFolder | None:
    """Return where `prepare.store` has shards go, as `jobs.dataset_store.open_folder` does; None if they stay here."""
    return open_folder(config.store, folder, description) if config.store else None


def check_shards(directory: Path, plan: DatasetPlan, shards: Sequence[Shard], store: StoreFolder | None = None) -> None:
    """Check that each shard is here: an executor on another node may have written to another file system.

    With a store, check that each is there; the executor has read it back.
    """
    if store is not None:
        store.require(directory, shards)
        return
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
