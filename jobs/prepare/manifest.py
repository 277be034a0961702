"""Write a dataset's manifest, and log what the dataset holds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from jobs.dataset import FORMAT, MANIFEST, SPLITS, Manifest, Shard, Split, SplitInfo
from jobs.files import sealed, write_json
from jobs.logs import log
from jobs.prepare.archives import image_shape
from jobs.prepare.idx import Header
from jobs.prepare.inputs import Inputs
from jobs.prepare.labels import ClassMap, class_names, enumerated
from jobs.prepare.orientation import upright_shape
from jobs.prepare.pictures import write_pictures
from jobs.prepare.survey import Findings
from jobs.segments import SegmentInfo, archive_row, read_segments
from jobs.words import counted


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a dataset holds. `images`: the header of a training archive. `shards`: of each split, in row order.

    `label_counts`: of each split, by class number, int64 [len(classes.labels)]. `options`: what was decided beside the
    config's own keys.
    """

    images: Header
    classes: ClassMap
    label_counts: Mapping[Split, NDArray[Any]]
    findings: Findings
    shards: Mapping[Split, Sequence[Shard]]
    options: Mapping[str, int | str]
    versions: Mapping[str, str]


def write_manifest(directory: Path, inputs: Inputs, content: Content) -> Manifest:
    """Write manifest.json into a dataset, log a summary, and return the manifest."""
    findings, shards = content.findings, content.shards
    pictures = write_pictures(directory, inputs.description.pictures)
    manifest = Manifest(
        format=FORMAT,
        dataset_id=inputs.dataset_id,
        shape=upright_shape(image_shape(content.images), inputs.orientation),
        classes=content.classes.classes,
        labels=tuple(content.classes.labels.tolist()),
        class_names=class_names(content.classes, inputs.description.class_names),
        orientation=inputs.orientation,
        splits={
            split: SplitInfo(
                rows=sum(shard.rows for shard in shards[split]),
                label_counts=tuple(content.label_counts[split].tolist()),
                shards=tuple(shards[split]),
            )
            for split in SPLITS
        },
        pixels=findings.pixels,
        pixel_type=inputs.config.pixels,
        normalization=findings.normalization,
        duplicates=findings.duplicates,
        sources=inputs.sources,
        options={"validation_from": inputs.config.validation_from, **content.options, **pictures},
        versions=content.versions,
    )
    write_json(directory / MANIFEST, sealed(manifest.model_dump(mode="json")))
    _log_classes_without_name(manifest, inputs.description.class_names)
    log_summary(manifest, read_segments(directory))
    return manifest


def _log_classes_without_name(manifest: Manifest, names: Mapping[int, str]) -> None:
    lacking = [str(label) for label in manifest.labels if label not in names]
    if names and lacking:
        log.warning(
            "prepare: %s of %s classes %s no name, as the class names are of %s others: %s",
            f"{len(lacking):,}", f"{len(manifest.labels):,}", "has" if len(lacking) == 1 else "have", f"{len(names):,}",
            enumerated(lacking),
        )  # fmt: skip


def log_summary(manifest: Manifest, segments: Sequence[SegmentInfo] = ()) -> None:
    """Log what a dataset holds, with warnings for missing classes and for test images seen in training.

    `segments`: of the dataset; empty for one of one plain pair.
    """
    height, width, channels = manifest.shape
    rows = " / ".join(f"{manifest.splits[split].rows:,} {split}" for split in SPLITS)
    log.info(
        "prepare: dataset %s: %s images of %d × %d × %d in %s, pixel mean %.4f, std %.4f",
        manifest.dataset_id, rows, height, width, channels, counted(manifest.classes, "class"),
        manifest.pixels.mean, manifest.pixels.std,
    )  # fmt: skip
    for split in SPLITS:
        info = manifest.splits[split]
        names = manifest.class_names[: manifest.classes]  # the rest only the test split has, which was logged
        missing = [name for name, rows in zip(names, info.label_counts, strict=False) if not rows]
        if missing and info.rows:
            log.warning(
                "prepare: no images of %s of %s in the %s split: %s",
                f"{len(missing):,}", counted(manifest.classes, "class"), split, enumerated(missing),
            )  # fmt: skip
    if manifest.duplicates.test_images_in_train:
        test_index, index = manifest.duplicates.examples[0]
        archive, row = archive_row(index, segments)
        is_made = "test_images" not in manifest.sources
        test_archive, test_row = archive_row(test_index, segments) if is_made else ("test_images", test_index)
        count = manifest.duplicates.test_images_in_train
        log.warning(
            "prepare: %s also in training; row %d of %s is row %d of %s (from 0)",
            "1 test image is" if count == 1 else f"{count:,} test images are",
            test_row, _archive_of(manifest, test_archive), row, _archive_of(manifest, archive),
        )  # fmt: skip


def _archive_of(manifest: Manifest, role: str) -> str:
    source = manifest.sources.get(role)
    return source.name if source else role
