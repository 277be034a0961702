"""One archive pair, decoded once: a part, from which datasets are made. See `jobs.segments`.

WORK/parts/PART_ID/
part.json                            rows, label counts, statistics and shards, sealed
train/ validation/ (or test/)        Parquet files as in a dataset
train.digests …                      16 bytes for each row: what finds duplicates among parts
"""

import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial, reduce
from pathlib import Path
from typing import Any

from jobs import segments
from jobs.archive import Archive
from jobs.dataset import FORMAT, SPLITS, Shard, Split
from jobs.errors import InputError
from jobs.files import read_object, sealed, sha256_file, sha256_json, sync, take_seal, write_json
from jobs.prepare.archives import Pair, inflated
from jobs.prepare.build import check_shards, survey_splits, take_shards
from jobs.prepare.config import PrepareConfig
from jobs.prepare.decode import Decoder
from jobs.prepare.disk_space import require_room
from jobs.prepare.idx import Header
from jobs.prepare.plan import DatasetPlan, plan_dataset
from jobs.prepare.spark import Spark
from jobs.prepare.survey import NORMALIZATION_OF_BYTES, NOTHING, Moments, add_counts

_FILE = "part.json"

log = logging.getLogger("idxtrain")


@dataclass(frozen=True)
class ArchivePair:
    """Images and labels that become a part. `tag`: of a training pair; None for the test pair."""

    tag: str | None
    images: Archive
    labels: Archive
    image_header: Header
    label_header: Header

    @property
    def name(self) -> str:
        """What messages call it."""
        return "the test pair" if self.tag is None else f"pair {self.tag or self.images.path.name}"

    def plan(self, config: PrepareConfig) -> DatasetPlan:
        """Return how its rows are split and cut; raise InputError where the options do not fit."""
        rows = self.image_header.rows
        if self.tag is None:
            shards = plan_dataset(config.model_copy(update={"validation_rows": 0}), rows, rows, self._row_shape)
            return DatasetPlan(0, rows, 0, config.validation_from, shards.rows_per_shard)
        shards = plan_dataset(config, rows, rows, self._row_shape)
        return DatasetPlan(rows, 0, shards.validation_rows, config.validation_from, shards.rows_per_shard)

    @property
    def _row_shape(self) -> tuple[int, ...]:
        return self.image_header.row_shape

    def part_id(self, config: PrepareConfig) -> str:
        """Return the 16 hex digits that name the part: a hash of the archives' content and the options."""
        identity = {
            "format": FORMAT,
            "kind": "test" if self.tag is None else "train",
            "archives": [self.images.sha256, self.labels.sha256],
            "options": config.model_dump(),
        }
        return sha256_json(identity)[:16]


@dataclass(frozen=True)
class Part:
    """A part on disk. `label_counts`: of each split, as long as its highest label asks. `moments`: of its train split,
    of stored bytes.
    """

    directory: Path
    shards: tuple[Shard, ...]
    label_counts: Mapping[Split, tuple[int, ...]]
    moments: Moments
    versions: Mapping[str, str]

    def of(self, split: Split) -> list[Shard]:
        """Return a split's shards."""
        return [shard for shard in self.shards if shard.path.startswith(f"{split}/")]

    def digests(self, split: Split) -> bytes:
        """Return 16 bytes for each row of a split."""
        return (self.directory / f"{split}.digests").read_bytes()


def read_part(directory: Path) -> Part | None:
    """Return a part, or None where there is none or it is not what was written."""
    try:
        raw = read_object(directory / _FILE, "prepare again")
        if not take_seal(raw):
            return None
        part = Part(
            directory,
            tuple(Shard.model_validate(shard) for shard in raw["shards"]),
            {split: tuple(raw["label_counts"][split]) for split in SPLITS},
            Moments(**raw["moments"]),
            raw["versions"],
        )
        files = {shard.path: shard.sha256 for shard in part.shards} | raw["digests"]
        whole = all(sha256_file(directory / path) == digest for path, digest in files.items())
    except (InputError, OSError, KeyError, TypeError, ValueError):
        return None
    return part if whole else None


def make_part(spark: Spark, config: PrepareConfig, pair: ArchivePair, directory: Path, unfinished: Path) -> None:
    """Decode a pair into `unfinished` (empty), then rename that to `directory`. Raises InputError for a bad archive."""
    plan = pair.plan(config)
    split = "test" if pair.tag is None else "train"
    archives = {f"{split}_images": pair.images, f"{split}_labels": pair.labels}
    headers = {f"{split}_images": pair.image_header, f"{split}_labels": pair.label_header}
    require_room(unfinished, archives, headers | {"train_images": pair.image_header}, plan)
    scratch = unfinished / "scratch"
    scratch.mkdir()
    with inflated(archives, scratch) as plain:
        files = Pair(
            plain[f"{split}_images"],
            plain[f"{split}_labels"],
            pair.image_header,
            pair.label_header,
            image_archive=pair.images.path,
            label_archive=pair.labels.path,
        )
        first = 0 if pair.tag is None else segments.first_index(directory.name)
        decoder = Decoder(plan, files, files, first)
        surveys = survey_splits(spark, decoder, pair.image_header)
        counts = {name: add_counts([survey.label_counts for survey in surveys[name]]).tolist() for name in SPLITS}
        for name in SPLITS:
            (unfinished / name).mkdir()
            (unfinished / f"{name}.digests").write_bytes(b"".join(survey.digests for survey in surveys[name]))
            sync(unfinished / f"{name}.digests")
        write = partial(decoder.write, NORMALIZATION_OF_BYTES, unfinished)
        shards = take_shards(decoder, spark.collect(f"prepare: writing {pair.name}", write, plan.shards), counts)
    shutil.rmtree(scratch)
    check_shards(unfinished, plan, shards)
    moments = reduce(Moments.__add__, [survey.moments for survey in surveys["train"]], NOTHING)
    content: dict[str, Any] = {
        "shards": [shard.model_dump() for shard in shards],
        "label_counts": counts,
        "moments": asdict(moments) if moments.count else asdict(NOTHING) | {"min": 0.0, "max": 0.0},
        "digests": {f"{name}.digests": sha256_file(unfinished / f"{name}.digests") for name in SPLITS},
        "versions": spark.versions(),
    }
    write_json(unfinished / _FILE, sealed(content))
    unfinished.rename(directory)
    sync(directory.parent)
    log.info("prepare: %s: %s rows decoded", pair.name, f"{pair.image_header.rows:,}")
