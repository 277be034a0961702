"""A dataset of many archive pairs: only pairs that were never decoded are, the rest are links to their files."""

import logging
import os
import secrets
import shutil
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from pathlib import Path

import numpy as np

from jobs import dataset, segments
from jobs.archive import Archive
from jobs.dataset import SPLITS, Manifest, PixelStatistics, Shard, Split, SplitInfo
from jobs.errors import IdxtrainError, InputError
from jobs.files import sealed, sync, write_json
from jobs.lease import Lease
from jobs.prepare import idx
from jobs.prepare.archives import image_shape
from jobs.prepare.build import report
from jobs.prepare.config import PrepareConfig, SparkConfig
from jobs.prepare.segment import ArchivePair, Part, make_part, read_part
from jobs.prepare.spark import Spark
from jobs.prepare.survey import NORMALIZATION_OF_BYTES, NOTHING, Moments, duplicates
from jobs.run_dir import Work

log = logging.getLogger("idxtrain")


def build_of_parts(
    config: PrepareConfig, spark: SparkConfig, archives: Mapping[str, Archive], directory: Path, name: str, work: Work
) -> None:
    """Fill `directory` (empty, not yet under its final name) with the dataset. Raises InputError for bad archives."""
    test, training = read_pairs(config, archives)
    # Whoever holds it alone makes and removes parts. It is held until the dataset's own list says which it is made of.
    with Lease(work.lease_file("parts"), "prepare: the parts", waits=True):
        found = _parts(config, spark, [test, *training], work.parts)
        _link(directory, found)
        manifest = _manifest(config, archives, directory, name, (test, *training), found)
        segments.write_parts(
            directory,
            found[0].directory.name,
            (_info(pair, part, manifest.classes) for pair, part in zip(training, found[1:], strict=True)),
        )
    write_json(directory / dataset.MANIFEST, sealed(manifest.model_dump(mode="json")))
    report(manifest)


def read_pairs(config: PrepareConfig, archives: Mapping[str, Archive]) -> tuple[ArchivePair, list[ArchivePair]]:
    """Return the test pair and the training pairs, sorted by tag, each content once; their headers are checked.

    Raises InputError where they do not fit each other.
    """
    test = _pair(None, archives["test_images"], archives["test_labels"])
    training: dict[str, ArchivePair] = {}
    for tag in segments.tags(archives):
        pair = _pair(tag, archives[segments.key("train_images", tag)], archives[segments.key("train_labels", tag)])
        same = training.setdefault(pair.part_id(config), pair)
        if same is not pair:
            log.warning("prepare: %s holds what %s holds; it counts once", pair.name, same.name)
    if not training:
        raise InputError(f"{test.images.path.parent}: found no training pair beside the test pair; add one")
    first = next(iter(training.values()))
    for pair in (test, *training.values()):
        if (pair.image_header.row_shape, pair.image_header.dtype) != (
            first.image_header.row_shape,
            first.image_header.dtype,
        ):
            raise InputError(
                f"{pair.images.path}: found images {pair.image_header}, expected the shape and type of "
                f"{first.images.path.name}, {first.image_header}; move that pair out"
            )
        if pair.image_header.dtype != np.uint8:
            raise InputError(
                f"{pair.images.path}: found images {pair.image_header}, expected ubyte in a data set of several pairs: "
                "other types are normalized by the extremes of all; give one pair"
            )
    return test, list(training.values())


def _pair(tag: str | None, images: Archive, labels: Archive) -> ArchivePair:
    image_header, label_header = idx.read_header(images.path), idx.read_header(labels.path)
    idx.check_pair(images.path, image_header, labels.path, label_header)
    return ArchivePair(tag, images, labels, image_header, label_header)


def _parts(config: PrepareConfig, spark_config: SparkConfig, pairs: Sequence[ArchivePair], folder: Path) -> list[Part]:
    """Return the pairs' parts, in order; decode those that are not there whole."""
    folder.mkdir(mode=0o775, parents=True, exist_ok=True)
    for abandoned in folder.glob(".tmp-*"):  # of a process that died: the lease is ours
        shutil.rmtree(abandoned)
    places = [folder / pair.part_id(config) for pair in pairs]
    _require_distinct(places[1:])
    missing = [(pair, place) for pair, place in zip(pairs, places, strict=True) if read_part(place) is None]
    log.info("prepare: %d archive pairs, %d of them new", len(pairs), len(missing))
    if missing:
        with Spark(spark_config) as spark:
            for pair, place in missing:
                shutil.rmtree(place, ignore_errors=True)  # what is not whole
                unfinished = folder / f".tmp-{place.name}-{secrets.token_hex(4)}"
                unfinished.mkdir()
                try:
                    make_part(spark, config, pair, place, unfinished)
                finally:
                    shutil.rmtree(unfinished, ignore_errors=True)
    made = [read_part(place) for place in places]
    for place, part in zip(places, made, strict=True):
        if part is None:
            raise IdxtrainError(f"{place}: is not what was written into it just now; check the disk")
    return [part for part in made if part is not None]


def _require_distinct(places: Iterable[Path]) -> None:
    seen: dict[int, Path] = {}
    for place in places:
        other = seen.setdefault(segments.first_index(place.name), place)
        if other is not place:
            raise InputError(
                f"{place.name} and {other.name}: found two parts whose rows go by the same numbers (one chance in two "
                "thousand million a pair); set prepare.rows_per_shard to another value"
            )


def _link(directory: Path, found: Sequence[Part]) -> None:
    for split in SPLITS:
        (directory / split).mkdir()
        for number, (part, shard) in enumerate(_shards(found, split)):
            _same_file(part.directory / shard.path, directory / _name(split, number))
        sync(directory / split)


def _shards(found: Sequence[Part], split: Split) -> list[tuple[Part, Shard]]:
    return [(part, shard) for part in found for shard in part.of(split)]


def _name(split: Split, number: int) -> str:
    return f"{split}/part-{number:05d}.parquet"


def _same_file(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links, or with too many of them
        shutil.copyfile(source, target)
        sync(target)


def _manifest(
    config: PrepareConfig,
    archives: Mapping[str, Archive],
    directory: Path,
    name: str,
    pairs: Sequence[ArchivePair],
    found: Sequence[Part],
) -> Manifest:
    test, training = found[0], found[1:]
    classes = max(len(part.label_counts[split]) for part in training for split in ("train", "validation"))
    if len(test.label_counts["test"]) > classes:
        raise InputError(
            f"{pairs[0].labels.path}: found label {len(test.label_counts['test']) - 1}, expected 0 to {classes - 1} as "
            "in the training labels; give archives of one data set"
        )
    return Manifest(
        format=dataset.FORMAT,
        dataset_id=name,
        shape=image_shape(pairs[0].image_header),
        classes=classes,
        splits={split: _split(split, found, classes) for split in SPLITS},
        pixels=_pixels([part.moments for part in training]),
        normalization=NORMALIZATION_OF_BYTES,
        duplicates=_duplicates(config, pairs[1:], training, test),
        sources={
            role: dataset.Source(name=archive.path.name, bytes=archive.bytes, sha256=archive.sha256)
            for role, archive in archives.items()
        },
        options={
            "validation_from": config.validation_from,
            "rows_per_shard": pairs[1].plan(config).rows_per_shard,
            "parts": len(training),
        },
        versions=training[-1].versions,
    )


def _split(split: Split, found: Sequence[Part], classes: int) -> SplitInfo:
    shards = [
        shard.model_copy(update={"path": _name(split, number)})
        for number, (_, shard) in enumerate(_shards(found, split))
    ]
    counts = [_padded(part.label_counts[split], classes) for part in found]
    return SplitInfo(
        rows=sum(shard.rows for shard in shards),
        label_counts=tuple(sum(column) for column in zip(*counts, strict=True)),
        shards=tuple(shards),
    )


def _padded(counts: Sequence[int], classes: int) -> list[int]:
    return [*counts, *[0] * (classes - len(counts))]


def _pixels(moments: Sequence[Moments]) -> PixelStatistics:
    total, rule = reduce(Moments.__add__, moments, NOTHING), NORMALIZATION_OF_BYTES
    return PixelStatistics(
        mean=total.mean * rule.scale,
        std=float(np.sqrt(total.squares / total.count)) * rule.scale,
        min=total.min * rule.scale,
        max=total.max * rule.scale,
    )


def _duplicates(
    config: PrepareConfig, pairs: Sequence[ArchivePair], training: Sequence[Part], test: Part
) -> dataset.Duplicates:
    rows: list[int] = []
    digests = b""
    for pair, part in zip(pairs, training, strict=True):
        plan, first = pair.plan(config), segments.first_index(part.directory.name)
        for split in ("train", "validation"):
            rows += (plan.archive_rows(split, 0, plan.rows[split]) + first).tolist()
            digests += part.digests(split)
    return duplicates(rows, digests, test.digests("test"))


def _info(pair: ArchivePair, part: Part, classes: int) -> segments.PartInfo:
    pixels = _pixels([part.moments])
    counts = tuple(_padded(part.label_counts["train"], classes))
    return segments.PartInfo(
        pair.tag or "", part.directory.name, pair.image_header.rows, counts, pixels.mean, pixels.std
    )
