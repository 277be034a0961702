"""Make a dataset of many archive pairs: decode only new pairs, and link to the files of all their segments."""

import os
import secrets
import shutil
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from pathlib import Path

from jobs import segments
from jobs.archive import Archive
from jobs.archive_headers import read_pair_headers, require_bytes, require_same_images
from jobs.dataset import SPLITS, Duplicates, Shard, Split, shard_path
from jobs.errors import IdxtrainError, InputError
from jobs.files import sync
from jobs.lease import Lease
from jobs.logs import log
from jobs.prepare.config import PrepareConfig, SparkConfig
from jobs.prepare.manifest import write_manifest
from jobs.prepare.segment import ArchivePair, Segment, make_segment, read_segment
from jobs.prepare.spark import Spark
from jobs.prepare.survey import (
    NORMALIZATION_OF_BYTES,
    NOTHING,
    Findings,
    Moments,
    count_classes,
    duplicates,
    padded,
    pixel_statistics,
)
from jobs.run_dir import Work


def build_of_segments(
    config: PrepareConfig, spark: SparkConfig, archives: Mapping[str, Archive], directory: Path, name: str, work: Work
) -> None:
    """Fill `directory` (empty, not yet under its final name) with the dataset. Raises InputError for bad archives."""
    test, training = read_pairs(config, archives)
    # Segments are made and removed only under this lease. It is held until the dataset's own list names its segments.
    with Lease(work.lease_file("segments"), "prepare: the segments", waits=True):
        made = _segments(config, spark, [test, *training], work.segments)
        _link(directory, made)
        findings = _findings(config, (test, *training), made)
        segments.write_segments(
            directory,
            made[0].directory.name,
            (_info(pair, each, findings.classes) for pair, each in zip(training, made[1:], strict=True)),
        )
    rows_per_shard = training[0].plan(config).rows_per_shard
    write_manifest(
        directory,
        dataset_id=name,
        images=test.image_header,
        findings=findings,
        shards={split: _linked_shards(made, split) for split in SPLITS},
        archives=archives,
        options={
            "validation_from": config.validation_from,
            "rows_per_shard": rows_per_shard,
            "segments": len(training),
        },
        versions=made[-1].versions,
    )


def read_pairs(config: PrepareConfig, archives: Mapping[str, Archive]) -> tuple[ArchivePair, list[ArchivePair]]:
    """Return the test pair and the training pairs, sorted by tag, each content once.

    Raises InputError unless their headers fit each other.
    """
    test = _pair(None, archives["test_images"], archives["test_labels"])
    training: dict[str, ArchivePair] = {}
    for tag in segments.tags(archives):
        pair = _pair(tag, archives[segments.key("train_images", tag)], archives[segments.key("train_labels", tag)])
        same = training.setdefault(pair.segment_id(config), pair)
        if same is not pair:
            log.warning("prepare: %s has the same content as %s; it counts once", pair.name, same.name)
    if not training:
        raise InputError(f"{test.images.path.parent}: found no training pair beside the test pair; fix: add one")
    first = next(iter(training.values()))
    for pair in (test, *training.values()):
        require_same_images(pair.images.path, pair.image_header, first.image_header)
        require_bytes(pair.images.path, pair.image_header)
    return test, list(training.values())


def _pair(tag: str | None, images: Archive, labels: Archive) -> ArchivePair:
    image_header, label_header = read_pair_headers(images.path, labels.path)
    return ArchivePair(tag=tag, images=images, labels=labels, image_header=image_header, label_header=label_header)


def _segments(
    config: PrepareConfig, spark_config: SparkConfig, pairs: Sequence[ArchivePair], folder: Path
) -> list[Segment]:
    """Return the pairs' segments in order; decode the pairs that have no complete segment yet."""
    folder.mkdir(mode=0o775, parents=True, exist_ok=True)
    for abandoned in folder.glob(".tmp-*"):  # of a dead process, as this one holds the lease
        shutil.rmtree(abandoned)
    directories = [folder / pair.segment_id(config) for pair in pairs]
    _require_distinct(directories[1:])
    wanted = list(zip(pairs, directories, strict=True))
    missing = [(pair, directory) for pair, directory in wanted if read_segment(directory) is None]
    log.info("prepare: %d archive pairs, %d of them new", len(pairs), len(missing))
    if missing:
        with Spark(spark_config) as spark:
            for pair, directory in missing:
                shutil.rmtree(directory, ignore_errors=True)  # an incomplete or damaged segment
                unfinished = folder / f".tmp-{directory.name}-{secrets.token_hex(4)}"
                unfinished.mkdir()
                try:
                    make_segment(spark, config, pair, directory, unfinished)
                finally:
                    shutil.rmtree(unfinished, ignore_errors=True)
    return [_require_segment(directory) for directory in directories]


def _require_segment(directory: Path) -> Segment:
    segment = read_segment(directory)
    if segment is None:
        raise IdxtrainError(f"{directory}: found other content than was just written; fix: check the disk")
    return segment


def _require_distinct(directories: Iterable[Path]) -> None:
    """Raise InputError if two segments would use the same `index` values."""
    seen: dict[int, Path] = {}
    for directory in directories:
        other = seen.setdefault(segments.first_index(directory.name), directory)
        if other is not directory:
            raise InputError(
                f"{directory.name} and {other.name}: found two segments with the same row numbers (one chance in 2 "
                "billion per pair); fix: set prepare.rows_per_shard to another value"
            )


def _link(directory: Path, made: Sequence[Segment]) -> None:
    for split in SPLITS:
        (directory / split).mkdir()
        for number, (segment, shard) in enumerate(_shards(made, split)):
            _link_or_copy(segment.directory / shard.path, directory / shard_path(split, number))
        sync(directory / split)


def _linked_shards(made: Sequence[Segment], split: Split) -> list[Shard]:
    return [
        shard.model_copy(update={"path": shard_path(split, number)})
        for number, (_, shard) in enumerate(_shards(made, split))
    ]


def _shards(made: Sequence[Segment], split: Split) -> list[tuple[Segment, Shard]]:
    return [(segment, shard) for segment in made for shard in segment.of(split)]


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links, or a file with too many
        shutil.copyfile(source, target)
        sync(target)


def _findings(config: PrepareConfig, pairs: Sequence[ArchivePair], made: Sequence[Segment]) -> Findings:
    test, training = made[0], made[1:]
    counts = [segment.label_counts[split] for segment in training for split in ("train", "validation")]
    classes = count_classes(counts, test.label_counts["test"], pairs[0].labels.path)
    return Findings(
        classes=classes,
        label_counts={
            split: tuple(map(sum, zip(*(padded(each.label_counts[split], classes) for each in made), strict=True)))
            for split in SPLITS
        },
        pixels=pixel_statistics(
            reduce(Moments.__add__, [segment.moments for segment in training], NOTHING), NORMALIZATION_OF_BYTES
        ),
        normalization=NORMALIZATION_OF_BYTES,
        duplicates=_duplicates(config, pairs[1:], training, test),
    )


def _duplicates(
    config: PrepareConfig, pairs: Sequence[ArchivePair], training: Sequence[Segment], test: Segment
) -> Duplicates:
    rows: list[int] = []
    digests = b""
    for pair, segment in zip(pairs, training, strict=True):
        plan, first = pair.plan(config), segments.first_index(segment.directory.name)
        for split in ("train", "validation"):
            rows += (plan.archive_rows(split, 0, plan.rows[split]) + first).tolist()
            digests += segment.digests(split)
    return duplicates(rows, digests, test.digests("test"))


def _info(pair: ArchivePair, segment: Segment, classes: int) -> segments.SegmentInfo:
    pixels = pixel_statistics(segment.moments, NORMALIZATION_OF_BYTES)
    return segments.SegmentInfo(
        tag=pair.tag or "",
        segment_id=segment.directory.name,
        rows=pair.image_header.rows,
        label_counts=padded(segment.label_counts["train"], classes),
        mean=pixels.mean,
        std=pixels.std,
    )
