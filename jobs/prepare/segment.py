"""Decode one archive pair into a segment, of which datasets are made. See `jobs.segments`.

WORK/segments/SEGMENT_ID/
segment.json                         rows, label counts, statistics and shards, sealed
train/ validation/ test/              Parquet files as in a dataset
train.digests …                      16 bytes per row, to find duplicates among segments
train.rows …                         the archive row of each row, int64
sketches/ sums.npz                   220 bytes per row, to find what is odd among all segments without decoding them
"""

import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs import segments
from jobs.archive import Archive
from jobs.dataset import FORMAT, SPLITS, Shard, Split, shards_of
from jobs.dataset_store import SEGMENTS, DamagedError, read_record, require_shards
from jobs.errors import InputError
from jobs.files import read_object, remove_unfinished, sealed, sha256_file, sha256_json, sync, take_seal, write_json
from jobs.logs import log
from jobs.prepare.archives import Inflated, pair_of
from jobs.prepare.build import check_shards, open_store, survey_splits, take_shards
from jobs.prepare.config import PrepareConfig
from jobs.prepare.decode import Decoder
from jobs.prepare.disk_space import room
from jobs.prepare.findings.rows import View, read_sums, take_views, write_sums, write_views
from jobs.prepare.findings.sketch import Sketch
from jobs.prepare.findings.sketch_files import map_sketch
from jobs.prepare.idx import Header
from jobs.prepare.inputs import Inputs
from jobs.prepare.labels import NO_LABELS, ClassMap, LabelColumn, LabelCounts
from jobs.prepare.plan import DatasetPlan, plan_segment
from jobs.prepare.row_files import RowFiles
from jobs.prepare.spark import Spark
from jobs.prepare.splits import SplitCounts, TrainingRows, count_usable, write_known
from jobs.prepare.survey import NORMALIZATION_OF_BYTES, NOTHING, Moments
from jobs.words import counted

_FILE = "segment.json"
_SKETCHES, _SUMS = "sketches", "sums.npz"


@dataclass(frozen=True, kw_only=True)
class ArchivePair:
    """Images and labels that become a segment. `tag`: of a training pair; None for the test pair.

    `excluded`: rows to leave out, increasing. `counts`: the labels of all rows but those that are listed to be left
    out. `test_rows`: of a training pair that make a test split, int64, increasing; None if there is a test pair.
    `tested`: the labels of the pair's test rows.
    """

    tag: str | None
    images: Archive
    labels: Archive
    image_header: Header
    label_header: Header
    excluded: tuple[int, ...]
    counts: LabelCounts
    tested: LabelCounts
    test_rows: NDArray[Any] | None

    @property
    def name(self) -> str:
        """The pair's name in messages."""
        return "the test pair" if self.tag is None else f"pair {self.tag or self.images.path.name}"

    @property
    def archives(self) -> dict[str, Archive]:
        """The archives by role."""
        return {f"{self.split}_images": self.images, f"{self.split}_labels": self.labels}

    @property
    def headers(self) -> dict[str, Header]:
        """The headers of the archives by role."""
        return {f"{self.split}_images": self.image_header, f"{self.split}_labels": self.label_header}

    def room(self, config: PrepareConfig) -> int:
        """Return the bytes that the segment needs on the disk while it is made: an upper estimate."""
        return room(
            self.archives,
            self.headers | {"train_images": self.image_header},
            self.plan(config),
            keeps_shards=not config.store,
        )

    @property
    def split(self) -> Split:
        """The prefix of the archives' roles: "test" or "train"."""
        return "test" if self.tag is None else "train"

    def plan(self, config: PrepareConfig) -> DatasetPlan:
        """Return how the pair's rows are split and cut into shards. Raises InputError if the options do not fit."""
        return plan_segment(
            config,
            self.image_header.rows,
            self.image_header.row_shape,
            len(self.excluded),
            self.images.path.name,
            is_test=self.tag is None,
            makes_test=self.test_rows is not None,
        )

    def segment_id(self, inputs: Inputs, classes: ClassMap) -> str:
        """Return the 16 hex digits that name the segment: a hash of the archives' content and the options.

        `classes`: of the dataset. They count only where a label is not its own class number, so that a further pair
        seldom changes the segments of the others.
        """
        splits = ["validation_rows", "validation_from"] if self.split == "train" else []
        splits += [] if self.test_rows is None else ["test_rows"]
        splits += ["pixels"] if inputs.config.pixels != "float32" else []  # IDs are older than the option
        labels = (self.counts + self.tested).labels
        identity = {
            "format": FORMAT,
            "kind": self.split,
            "archives": [self.images.sha256, self.labels.sha256],
            "options": {name: getattr(inputs.config, name) for name in (*splits, "rows_per_shard")},
            "orientation": inputs.orientation,
            "label_column": inputs.label_column,
            "excluded": list(self.excluded),
            "classes": {str(label): number for label, number in classes.own_map(labels).items()},
        }
        return sha256_json(identity)[:16]


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A segment on disk.

    `label_counts`: of each split, up to its highest class number. `moments`: of the stored bytes in its train split.
    """

    directory: Path
    shards: tuple[Shard, ...]
    label_counts: Mapping[Split, tuple[int, ...]]
    moments: Moments
    versions: Mapping[str, str]

    def of(self, split: Split) -> list[Shard]:
        """Return the shards of a split."""
        return shards_of(split, self.shards)

    def view(self, split: Split) -> View:
        """Return what is kept of the images of a split, mapped; the sums are those of the training images."""
        start = sum(shard.rows for each in SPLITS[: SPLITS.index(split)] for shard in self.of(each))
        here = slice(start, start + sum(shard.rows for shard in self.of(split)))
        sketch = map_sketch(self.directory / _SKETCHES)
        sums = self.directory / _SUMS
        return View(
            sketch=Sketch(**{name: column[here] for name, column in vars(sketch).items()}),
            sums=read_sums(sums) if split == "train" and sums.exists() else None,
        )

    @property
    def rows(self) -> RowFiles:
        """The archive rows of each split."""
        return RowFiles(self.directory)


def read_segment(directory: Path, store: str | None) -> Segment | None:
    """Return a segment, or None if it is missing, not as it was written, or not where it should be.

    `store`: the URL under which its shards should be; None: in its own folder. Raises InputError or StoreLostError for
    a store that cannot be listed: the segment may be whole.
    """
    try:
        raw = read_object(directory / _FILE, "prepare again")
        if not take_seal(raw):
            return None
        segment = Segment(
            directory=directory,
            shards=tuple(Shard.model_validate(shard) for shard in raw["shards"]),
            label_counts={split: tuple(raw["label_counts"][split]) for split in SPLITS},
            moments=Moments(**raw["moments"]),
            versions=raw["versions"],
        )
        record = read_record(directory)
        if (record and record.url) != store:
            return None
        files = {shard.path: shard.sha256 for shard in segment.shards if record is None} | raw["files"]
        has_sketches = f"{_SKETCHES}/projections" in files  # segments of development versions have none
        is_whole = has_sketches and all(sha256_file(directory / path) == digest for path, digest in files.items())
    except (InputError, OSError, KeyError, TypeError, ValueError):
        return None
    if not is_whole:
        return None
    if record:
        try:
            require_shards(record, directory, segment.shards)
        except DamagedError:
            return None
    return segment


def make_segment(
    spark: Spark, inputs: Inputs, classes: ClassMap, pair: ArchivePair, archives: Inflated, directory: Path
) -> None:
    """Decode a pair into a folder beside `directory`, then rename that. Raises InputError for a bad archive.

    `archives`: of the pair, by role.
    """
    unfinished = directory.with_name(f".tmp-{directory.name}-{secrets.token_hex(4)}")
    unfinished.mkdir()
    try:
        _fill(spark, inputs, classes, pair, archives, directory, unfinished)
        unfinished.rename(directory)
        sync(directory.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _fill(
    spark: Spark,
    inputs: Inputs,
    classes: ClassMap,
    pair: ArchivePair,
    archives: Inflated,
    directory: Path,
    unfinished: Path,
) -> None:
    plan, split, rows = pair.plan(inputs.config), pair.split, RowFiles(unfinished)
    store = open_store(inputs.config, f"{SEGMENTS}/{directory.name}", _FILE)
    with archives.unchanged() as plain:
        files = pair_of(split, archives.archives, plain, pair.headers, inputs.label_column)
        counts = _split(inputs.config, classes, pair, files.label_file, plan, rows)
        plan = plan.with_rows({name: int(each.sum()) for name, each in counts.items()})
        decoder = Decoder(
            rows=rows,
            train=files,
            test=files,
            classes=classes,
            orientation=inputs.orientation,
            pixels=inputs.config.pixels,
            first_index=0 if pair.tag is None else segments.first_index(directory.name),
            views=True,
            store=store,
        )
        moments = survey_splits(spark, decoder, plan, pair.image_header)
        for name in SPLITS if store is None else ():
            (unfinished / name).mkdir()
        write = partial(decoder.write, NORMALIZATION_OF_BYTES, unfinished)
        written = spark.collect(f"prepare: writing {pair.name}", write, plan.shards)
        shards = take_shards(decoder, written, counts)
    check_shards(unfinished, plan, shards, store)
    _keep_views(unfinished, [each.view for each in written if each.view])
    for folder in (unfinished, *(unfinished / name for name in SPLITS)):
        remove_unfinished(folder)  # of executors that were killed; others have written the same since
    kept = [path for path in unfinished.rglob("*") if path.is_file() and path.suffix != ".parquet"]
    for path in kept:
        sync(path)
    content: dict[str, Any] = {
        "shards": [shard.model_dump() for shard in shards],
        "label_counts": {name: np.trim_zeros(each, "b").tolist() for name, each in counts.items()},
        "moments": _as_json(moments["train"]),
        "files": {str(path.relative_to(unfinished)): sha256_file(path) for path in sorted(kept)},
        "versions": spark.versions(),
    }
    write_json(unfinished / _FILE, sealed(content))
    if store is not None:
        store.finish(unfinished, _FILE, shards)
    log.info("prepare: %s: %s decoded", pair.name, counted(sum(plan.rows.values()), "row"))


def _keep_views(directory: Path, views: Sequence[Path]) -> None:
    """Turn the views of the shards, in order, into the segment's own files."""
    sums = write_views(directory / _SKETCHES, take_views(views))
    if sums is not None:
        write_sums(directory / _SUMS, sums)


def _split(
    config: PrepareConfig, classes: ClassMap, pair: ArchivePair, labels: LabelColumn, plan: DatasetPlan, files: RowFiles
) -> dict[Split, NDArray[Any]]:
    """Write the rows of each split; return the rows of each class in each, int64 [len(classes.labels)]."""
    with files.writing(*SPLITS):
        pass  # a segment has all three files, whatever pair it is made of
    counts: SplitCounts = {"test": pair.tested}
    if pair.tag is None:
        write_known(labels, classes, files)
    else:
        left_out, usable = np.array(pair.excluded, np.int64), pair.counts
        if pair.test_rows is not None:
            write_known(labels, classes, files, pair.test_rows)
            left_out = np.union1d(left_out, pair.test_rows)
            usable = count_usable(labels, pair.labels.path, left_out)
        counts |= TrainingRows(labels=labels, counts=usable, left_out=left_out).split(config, plan, files)
    return {split: classes.counts(counts.get(split, NO_LABELS)) for split in SPLITS}


def _as_json(moments: Moments) -> dict[str, Any]:
    """Return moments as JSON, which has no infinity."""
    return asdict(moments) if moments.count else asdict(NOTHING) | {"min": 0.0, "max": 0.0}
