"""Make a dataset of many archive pairs: decode only new pairs, and link to the files of all their segments."""

import os
import secrets
import shutil
from collections.abc import Collection, Iterable, Sequence
from functools import partial, reduce
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs import segments
from jobs.archive import Archive
from jobs.archive_headers import read_pair_headers, require_bytes, require_same_images
from jobs.dataset import SPLITS, Shard, Split, shard_path
from jobs.dataset_store import SEGMENTS, StoreRecord, write_record
from jobs.errors import IdxtrainError, InputError
from jobs.files import sync
from jobs.lease import Lease
from jobs.logs import log
from jobs.prepare.archives import inflate_all, inflated
from jobs.prepare.config import SparkConfig
from jobs.prepare.digests import join_files, read_digests
from jobs.prepare.disk_space import require_free, view_bytes
from jobs.prepare.exclusions import read_exclusions
from jobs.prepare.findings.look import look
from jobs.prepare.findings.rows import read_parquet
from jobs.prepare.inputs import Inputs
from jobs.prepare.labels import NO_LABELS, ClassMap, LabelColumn, LabelCounts, enumerated, map_classes
from jobs.prepare.made_test import choose_test, without_tested
from jobs.prepare.manifest import Content, write_manifest
from jobs.prepare.plan import plan_dataset, require_test_rows
from jobs.prepare.segment import ArchivePair, Segment, make_segment, read_segment
from jobs.prepare.spark import Spark
from jobs.prepare.splits import count_usable
from jobs.prepare.survey import NORMALIZATION_OF_BYTES, NOTHING, Findings, Moments, duplicates, pixel_statistics
from jobs.run_dir import Work
from jobs.words import counted

_SCRATCH = "scratch"
_TOGETHER = 8  # pairs whose archives are inflated in parallel: limits the room on the disk


def build_of_segments(inputs: Inputs, spark: SparkConfig, directory: Path, work: Work) -> None:
    """Fill `directory` (empty, not yet under its final name) with the dataset. Raises InputError for bad archives."""
    _fill(inputs, spark, directory, work)
    shutil.rmtree(directory / _SCRATCH)  # no file in it is mapped any more: see `build`


def _fill(inputs: Inputs, spark: SparkConfig, directory: Path, work: Work) -> None:
    scratch = directory / _SCRATCH
    scratch.mkdir()
    test, training = read_pairs(inputs, scratch)
    pairs = training if test is None else [test, *training]
    tested = reduce(LabelCounts.__add__, [pair.tested for pair in pairs], NO_LABELS)
    classes = map_classes(
        reduce(LabelCounts.__add__, [pair.counts for pair in training], NO_LABELS),
        tested,
        inputs.config.unseen_classes,
        pairs[0].labels.path,
    )
    # Segments are made and removed only under this lease. It is held until the dataset's own list names its segments.
    with Lease(work.lease_file("segments"), "prepare: the segments", waits=True):
        made = _segments(inputs, classes, spark, pairs, work.segments)
        _link(directory, made, inputs)
        of_training = made[len(pairs) - len(training) :]
        segments.write_segments(
            directory,
            "" if test is None else made[0].directory.name,
            (_info(pair, each, classes.classes) for pair, each in zip(training, of_training, strict=True)),
        )
    inputs.require_unchanged()
    excluded = sum(len(pair.excluded) for pair in training)
    label_counts = _label_counts(made, len(classes.labels))
    digests = read_digests(
        join_files((each.rows.digests(split) for split in SPLITS for each in made), scratch / "digests")
    )
    ignored = tested.total - int(label_counts["test"].sum())
    manifest = write_manifest(
        directory,
        inputs,
        Content(
            images=training[0].image_header,
            classes=classes,
            label_counts=label_counts,
            findings=_findings(of_training, made, digests, int(label_counts["test"].sum())),
            shards={split: _linked_shards(made, split) for split in SPLITS},
            options={
                "rows_per_shard": training[0].plan(inputs.config).rows_per_shard,
                "segments": len(training),
                **({"test_from": "each training archive, stratified"} if test is None else {}),
                **({"excluded_rows": excluded} if excluded else {}),
                **({"ignored_test_rows": ignored} if ignored else {}),
            },
            versions=made[-1].versions,
        ),
    )
    require_free(directory, view_bytes(sum(info.rows for info in manifest.splits.values())), "its rows' sketches")
    look(
        directory,
        manifest,
        (segment.view(split) for split in SPLITS for segment in made),
        digests,
        partial(read_parquet, directory, manifest),
        scratch,
    )


def read_pairs(inputs: Inputs, scratch: Path) -> tuple[ArchivePair | None, list[ArchivePair]]:
    """Return the test pair, or None, and the training pairs, sorted by tag, each content once.

    Without a test pair, each training pair gives a tenth of its own rows, whatever the others are: a pair that is added
    later moves no row between training and test. One that is too small gives none, with a warning.
    `scratch`: an empty folder, for label archives to be inflated in. Raises InputError unless the headers fit each
    other and the labels can be read.
    """
    archives, tags = inputs.archives, segments.tags(inputs.archives)
    exclusions = read_exclusions(inputs.config.exclude)
    exclusions.require_tags(tags)

    def pair(tag: str | None, images: Archive, labels: Archive) -> ArchivePair:
        image_header, label_header = read_pair_headers(images.path, labels.path, inputs.label_column)
        excluded = np.array(() if tag is None else exclusions.of(tag, image_header.rows), np.int64)
        test_rows = None
        with inflated({"labels": labels}, scratch) as plain:
            column = LabelColumn(plain["labels"], label_header, inputs.label_column)
            counts = count_usable(column, labels.path, excluded)
            tested = counts if tag is None else NO_LABELS
            if inputs.makes_test:
                name = images.path.name
                plan = plan_dataset(inputs.config, image_header.rows, None, image_header.row_shape, len(excluded), name)
                test_rows, tested = choose_test(inputs.config, column, labels.path, None, plan.rows["test"])
                excluded = without_tested(excluded, test_rows)
        (scratch / "labels").unlink(missing_ok=True)
        return ArchivePair(
            tag=tag, images=images, labels=labels, image_header=image_header, label_header=label_header,
            excluded=tuple(excluded.tolist()), counts=counts, tested=tested, test_rows=test_rows,
        )  # fmt: skip

    test = None if inputs.makes_test else pair(None, archives["test_images"], archives["test_labels"])
    training: dict[tuple[str, str], ArchivePair] = {}
    for tag in tags:
        images, labels = (archives[segments.key(f"train_{kind}", tag)] for kind in ("images", "labels"))
        each = pair(tag, images, labels)
        same = training.setdefault((images.sha256, labels.sha256), each)
        if same is not each:
            log.warning("prepare: %s has the same content as %s; it counts once", each.name, same.name)
            if lost := set(each.excluded) - set(same.excluded):
                raise InputError(
                    f"{exclusions.path}: found row {min(lost)} of {each.name}, expected rows of {same.name}, of which "
                    f"it is a copy; fix: name the rows under the tag {same.tag!r}"
                )
    if test and not training:
        raise InputError(f"{test.images.path.parent}: found no training pair beside the test pair; fix: add one")
    first = next(iter(training.values()))
    for each in (*([test] if test else []), *training.values()):
        require_same_images(each.images.path, each.image_header, first.image_header)
        require_bytes(each.images.path, each.image_header)
    if inputs.makes_test:
        without = [each.name for each in training.values() if not each.tested.total]
        require_test_rows(len(training) - len(without))
        if without:
            log.warning("prepare: no test rows of %s: too few images of each class", enumerated(without))
    return test, list(training.values())


def _segments(
    inputs: Inputs, classes: ClassMap, spark_config: SparkConfig, pairs: Sequence[ArchivePair], folder: Path
) -> list[Segment]:
    """Return the pairs' segments in order; decode the pairs that have no complete segment yet."""
    folder.mkdir(mode=0o775, parents=True, exist_ok=True)
    for abandoned in folder.glob(".tmp-*"):  # of a dead process, as this one holds the lease
        shutil.rmtree(abandoned)
    directories = [folder / pair.segment_id(inputs, classes) for pair in pairs]
    _require_distinct(directory for pair, directory in zip(pairs, directories, strict=True) if pair.tag is not None)
    wanted, store = list(zip(pairs, directories, strict=True)), inputs.config.store
    missing = [(pair, directory) for pair, directory in wanted if read_segment(directory, store) is None]
    log.info("prepare: %s, %d of them new", counted(len(pairs), "archive pair"), len(missing))
    if missing:
        with Spark(spark_config) as spark:
            for start in range(0, len(missing), _TOGETHER):
                _make_segments(spark, inputs, classes, missing[start : start + _TOGETHER])
    return [_require_segment(directory, store) for directory in directories]


def _make_segments(
    spark: Spark, inputs: Inputs, classes: ClassMap, missing: Sequence[tuple[ArchivePair, Path]]
) -> None:
    """Inflate the archives of some pairs in parallel, then decode one pair after another."""
    folder = missing[0][1].parent
    require_free(
        folder, sum(pair.room(inputs.config) for pair, _ in missing), "the inflated archives and their segments"
    )
    scratch = folder / f".tmp-inflated-{secrets.token_hex(4)}"
    scratch.mkdir()
    try:
        keys = [{role: f"{number}-{role}" for role in pair.archives} for number, (pair, _) in enumerate(missing)]
        archives = {
            key: pair.archives[role] for (pair, _), own in zip(missing, keys, strict=True) for role, key in own.items()
        }
        inflated_archives = inflate_all(archives, scratch, spark.spread)
        for (pair, directory), own in zip(missing, keys, strict=True):
            shutil.rmtree(directory, ignore_errors=True)  # an incomplete or damaged segment
            make_segment(spark, inputs, classes, pair, inflated_archives.part(own), directory)
            for key in own.values():
                (scratch / key).unlink(missing_ok=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _require_segment(directory: Path, store: str | None) -> Segment:
    segment = read_segment(directory, store)
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


def _link(directory: Path, made: Sequence[Segment], inputs: Inputs) -> None:
    """Link to the files of the segments, or record where they are in a store."""
    if inputs.config.store:
        shards = {shard_path(split, n): each for split in SPLITS for n, each in enumerate(_shards(made, split))}
        record = StoreRecord(
            url=inputs.config.store,
            folder=inputs.dataset_id,
            bytes=sum(shard.bytes for _, shard in shards.values()),
            objects={
                path: f"{SEGMENTS}/{segment.directory.name}/{shard.path}" for path, (segment, shard) in shards.items()
            },
        )
        write_record(directory, record)
        return
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


def _label_counts(made: Sequence[Segment], classes: int) -> dict[Split, NDArray[Any]]:
    """Return the rows of each class in each split: int64 [classes]."""
    counts: dict[Split, NDArray[Any]] = {split: np.zeros(classes, np.int64) for split in SPLITS}
    for segment in made:
        for split, rows in segment.label_counts.items():
            counts[split][: len(rows)] += np.array(rows, np.int64)
    return counts


def _findings(training: Sequence[Segment], made: Sequence[Segment], digests: NDArray[Any], tested: int) -> Findings:
    """Return what the surveys of all segments say. `made`: in the order of `digests`, within each split."""
    of_training = {segment.directory for segment in training}
    indices = [segment.rows.whole(split) + _first_index(segment, of_training) for split in SPLITS for segment in made]
    moments = reduce(Moments.__add__, [segment.moments for segment in training], NOTHING)
    return Findings(
        pixels=pixel_statistics(moments, NORMALIZATION_OF_BYTES),
        normalization=NORMALIZATION_OF_BYTES,
        duplicates=duplicates(np.concatenate(indices), digests, tested),
    )


def _first_index(segment: Segment, of_training: Collection[Path]) -> int:
    return segments.first_index(segment.directory.name) if segment.directory in of_training else 0


def _info(pair: ArchivePair, segment: Segment, classes: int) -> segments.SegmentInfo:
    pixels, counts = pixel_statistics(segment.moments, NORMALIZATION_OF_BYTES), segment.label_counts["train"]
    return segments.SegmentInfo(
        tag=pair.tag or "",
        segment_id=segment.directory.name,
        rows=pair.image_header.rows,
        label_counts=(*counts, *[0] * (classes - len(counts))),
        mean=pixels.mean,
        std=pixels.std,
    )
