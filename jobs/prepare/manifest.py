"""Write a dataset's manifest, and log what the dataset holds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from jobs.archive import Archive
from jobs.dataset import FORMAT, MANIFEST, SPLITS, Manifest, Shard, Source, Split, SplitInfo
from jobs.files import sealed, write_json
from jobs.logs import log
from jobs.prepare.archives import image_shape
from jobs.prepare.idx import Header
from jobs.prepare.survey import Findings
from jobs.segments import SegmentInfo, archive_row, read_segments

_MOST_LISTED = 20  # labels in one line of the log


def write_manifest(
    directory: Path,
    *,
    dataset_id: str,
    images: Header,
    findings: Findings,
    shards: Mapping[Split, Sequence[Shard]],
    archives: Mapping[str, Archive],
    options: Mapping[str, int | str],
    versions: Mapping[str, str],
) -> Manifest:
    """Write manifest.json into a dataset, log a summary, and return the manifest.

    `images`: the header of a training archive. `shards`: of each split, in row order. `archives`: all sources.
    """
    manifest = Manifest(
        format=FORMAT,
        dataset_id=dataset_id,
        shape=image_shape(images),
        classes=findings.classes,
        labels=tuple(range(findings.classes)),
        class_names=tuple(map(str, range(findings.classes))),
        orientation="none",
        splits={
            split: SplitInfo(
                rows=sum(shard.rows for shard in shards[split]),
                label_counts=findings.label_counts[split],
                shards=tuple(shards[split]),
            )
            for split in SPLITS
        },
        pixels=findings.pixels,
        normalization=findings.normalization,
        duplicates=findings.duplicates,
        sources={
            role: Source(name=archive.path.name, bytes=archive.bytes, sha256=archive.sha256)
            for role, archive in archives.items()
        },
        options=options,
        versions=versions,
    )
    write_json(directory / MANIFEST, sealed(manifest.model_dump(mode="json")))
    log_summary(manifest, read_segments(directory))
    return manifest


def log_summary(manifest: Manifest, segments: Sequence[SegmentInfo] = ()) -> None:
    """Log what a dataset holds, with warnings for missing classes and for test images seen in training.

    `segments`: of the dataset; empty for one of one plain pair.
    """
    height, width, channels = manifest.shape
    rows = " / ".join(f"{manifest.splits[split].rows:,} {split}" for split in SPLITS)
    log.info(
        "prepare: dataset %s: %s images of %d × %d × %d in %d classes, pixel mean %.4f, std %.4f",
        manifest.dataset_id, rows, height, width, channels, manifest.classes, manifest.pixels.mean, manifest.pixels.std,
    )  # fmt: skip
    counts = {split: manifest.splits[split].label_counts for split in SPLITS}
    totals = [sum(column) for column in zip(*counts.values(), strict=True)]
    empty = totals.count(0)
    is_sparse = empty > max(_MOST_LISTED, manifest.classes / 2)
    if is_sparse:
        log.warning(
            "prepare: %s of %s classes have no images; is %d really a label?",
            f"{empty:,}", f"{manifest.classes:,}", manifest.classes - 1,
        )  # fmt: skip
    for split in SPLITS:
        missing = [label for label, n in enumerate(counts[split]) if not n and (totals[label] or not is_sparse)]
        if missing and manifest.splits[split].rows:
            log.warning("prepare: no images of class %s in the %s split", _listed(missing), split)
    if manifest.duplicates.test_images_in_train:
        test_row, index = manifest.duplicates.examples[0]
        archive, row = archive_row(index, segments)
        count = manifest.duplicates.test_images_in_train
        log.warning(
            "prepare: %s also in training; row %d of %s is row %d of %s (from 0)",
            "1 test image is" if count == 1 else f"{count:,} test images are",
            test_row, manifest.sources["test_images"].name, row, manifest.sources[archive].name,
        )  # fmt: skip


def _listed(labels: Sequence[int]) -> str:
    more = f" and {len(labels) - _MOST_LISTED:,} more" if len(labels) > _MOST_LISTED else ""
    return ", ".join(map(str, labels[:_MOST_LISTED])) + more
