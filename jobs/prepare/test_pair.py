"""python -m jobs.prepare.test_pair EVALUATION_DIR: make the dataset of a test pair for a finished run's model.

The dataset is `RUN/evaluations/NAME/dataset` and has a test split alone. Pixels are normalized and classes numbered as
in the dataset that the run trained on. It is made in one process: Spark takes longer to start than a test set takes to
decode.
"""

import shutil
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from jobs.archive_headers import read_pair_headers
from jobs.dataset import MANIFEST, Duplicates, Manifest, Shard, Split, SplitInfo, read_manifest
from jobs.errors import InputError
from jobs.files import sealed, sha256_file, sha256_json, write_json
from jobs.pixels import from_column
from jobs.prepare.archives import image_shape, inflated, pair_of
from jobs.prepare.config import PrepareConfig
from jobs.prepare.decode import Decoder
from jobs.prepare.digests import digests_in, image_digests
from jobs.prepare.idx import Header
from jobs.prepare.inputs import Inputs
from jobs.prepare.labels import ClassMap, LabelCounts, class_names, count_labels, map_classes
from jobs.prepare.orientation import upright_shape
from jobs.prepare.pictures import write_pictures
from jobs.prepare.plan import ShardPlan, even_ranges
from jobs.prepare.row_files import RowFiles
from jobs.prepare.splits import write_known
from jobs.prepare.survey import duplicates
from jobs.progress import Progress
from jobs.records import FetchOutputs, PrepareOutputs
from jobs.run_dir import RunDir
from jobs.shard_copies import local_path
from jobs.stage import dataset_of, read_outputs, run_as_process, stage_key, write_record

_SHARD_BYTES = 8 << 20  # of float32 pixels
_TRAINING: tuple[Split, ...] = ("train", "validation")


def main(run: RunDir) -> None:
    """Make the dataset, `run` being the evaluation's folder, and record it as the prepare stage does."""
    key = stage_key(run, "prepare")
    fetched = read_outputs(run, FetchOutputs)
    inputs = Inputs(run.section("prepare", PrepareConfig), fetched.archives, fetched.description)
    directory = run.path / "dataset"
    make_test_dataset(inputs, dataset_of(run.origin), directory)
    manifest = directory / MANIFEST
    dataset_id = read_manifest(directory).dataset_id
    outputs = PrepareOutputs(dataset=directory, dataset_id=dataset_id, manifest_sha256=sha256_file(manifest))
    write_record(run, "prepare", key, outputs.model_dump(mode="json"), [manifest])


def make_test_dataset(inputs: Inputs, trained_on: Path, directory: Path) -> None:
    """Write the dataset of a test pair into `directory`, which must not exist.

    `trained_on`: the dataset that the model was trained on. Raises InputError for images that the model cannot take.
    """
    model, archives = read_manifest(trained_on), inputs.archives
    images, labels = archives["test_images"].path, archives["test_labels"].path
    image_header, label_header = read_pair_headers(images, labels, inputs.label_column)
    _require_fitting(images, image_header, inputs, model)
    scratch = directory / "scratch"
    for folder in (scratch, directory / "test"):
        folder.mkdir(parents=True)
    with inflated(archives, scratch) as plain:
        headers = {"test_images": image_header, "test_labels": label_header}
        pair = pair_of("test", archives, plain, headers, inputs.label_column)
        counts = count_labels(labels, (block for _, block in pair.label_file.blocks()))
        classes, rows = _classes(inputs, counts, model, labels), RowFiles(scratch)
        write_known(pair.label_file, classes, rows)
        decoder = Decoder(
            rows=rows, train=pair, test=pair, classes=classes, orientation=inputs.orientation, pixels=model.pixel_type
        )
        label_counts = tuple(classes.counts(counts).tolist())
        shards = _write(decoder, model, directory, sum(label_counts))
    shutil.rmtree(scratch)
    ignored = image_header.rows - sum(label_counts)
    none = SplitInfo(rows=0, label_counts=(0,) * len(label_counts), shards=())
    manifest = model.model_copy(
        update={
            "dataset_id": _dataset_id(inputs, model),
            "labels": tuple(classes.labels.tolist()),
            "class_names": _names(inputs, classes, model),
            "orientation": inputs.orientation,
            "splits": {
                "train": none,
                "validation": none,
                "test": SplitInfo(rows=sum(label_counts), label_counts=label_counts, shards=shards),
            },
            "duplicates": _duplicates(trained_on, model, directory, shards),
            "sources": inputs.sources,
            "options": ({"ignored_test_rows": ignored} if ignored else {})
            | write_pictures(directory, inputs.description.pictures),
        }
    )
    write_json(directory / MANIFEST, sealed(manifest.model_dump(mode="json")))


def _require_fitting(path: Path, header: Header, inputs: Inputs, model: Manifest) -> None:
    shape = upright_shape(image_shape(header), inputs.orientation)
    is_bytes = model.normalization.rule == "type-range"
    if shape != model.shape or (header.dtype == np.uint8) != is_bytes:
        height, width, channels = model.shape
        kind = "uint8" if is_bytes else "another type than uint8"
        raise InputError(
            f"{path}: found images {header}, expected {height} × {width} × {channels} of {kind} as the model was "
            "trained on; fix: give archives in that form"
        )


def _classes(inputs: Inputs, counts: LabelCounts, model: Manifest, path: Path) -> ClassMap:
    """Return the classes, numbered as in the model's dataset. Others count as errors, unless they are to be ignored."""
    if not len(counts.labels):
        raise InputError(f"{path}: found no rows, expected at least one; fix: give archives with test images")
    _require_same_names(inputs, counts, model, path)
    known = np.array(model.labels[: model.classes], np.int64)
    unseen: Literal["ignore", "count"] = "ignore" if inputs.config.unseen_classes == "ignore" else "count"
    return map_classes(LabelCounts(known, np.zeros(len(known), np.int64)), counts, unseen, path)


def _require_same_names(inputs: Inputs, counts: LabelCounts, model: Manifest, path: Path) -> None:
    """Raise InputError if a label that occurs names another class than in the dataset that the model was trained on."""
    names, trained = inputs.description.class_names, dict(zip(model.labels, model.class_names, strict=True))
    for label in counts.labels.tolist():
        here, there = names.get(label), trained.get(label, str(label))
        if here is not None and there not in (here, str(label)):
            raise InputError(
                f"{path}: found label {label} for {here}, expected {there} as in training; fix: number the classes as "
                "in training, or leave out the class names if only they differ"
            )


def _names(inputs: Inputs, classes: ClassMap, model: Manifest) -> tuple[str, ...]:
    """Return the names of the model's classes, then those that the test pair's description gives to the others."""
    return model.class_names[: model.classes] + class_names(classes, inputs.description.class_names)[model.classes :]


def _dataset_id(inputs: Inputs, model: Manifest) -> str:
    return sha256_json({"test": inputs.dataset_id, "trained_on": model.dataset_id})[:16]


def _write(decoder: Decoder, model: Manifest, directory: Path, rows: int) -> tuple[Shard, ...]:
    ranges = even_ranges(rows, max(1, _SHARD_BYTES // (4 * prod(model.shape))))
    shards = []
    with Progress("prepare: writing Parquet", rows, "images") as progress:
        for number, (start, stop) in enumerate(ranges):
            plan = ShardPlan(split="test", number=number, start=start, stop=stop)
            shards.append(decoder.write(model.normalization, directory, plan).shard)
            progress.update(stop)
    return tuple(shards)


def _duplicates(trained_on: Path, model: Manifest, directory: Path, test: tuple[Shard, ...]) -> Duplicates:
    """Find the test images among the images that the model was trained on or validated with."""
    training = [shard for split in _TRAINING for shard in model.splits[split].shards]
    indices, digests = _digests(trained_on, training)
    test_indices, test_digests = _digests(directory, test)
    together = digests_in(digests + test_digests)
    return duplicates(np.concatenate([indices, test_indices]), together, len(test_indices))


def _digests(directory: Path, shards: Sequence[Shard]) -> tuple[NDArray[Any], bytes]:
    """Return the `index` of each row, int64, and the digest of each stored image, in the order of the shards."""
    indices, digests = [np.empty(0, np.int64)], [b""]
    for shard in shards:
        with pq.ParquetFile(local_path(directory, shard)) as file:
            # pyarrow's threads could abort the process at its end.
            table = file.read(["image", "index"], use_threads=False)
        indices.append(table["index"].to_numpy())
        digests.append(image_digests(from_column(table["image"].combine_chunks())))
    return np.concatenate(indices), b"".join(digests)


if __name__ == "__main__":
    run_as_process("prepare", main)
