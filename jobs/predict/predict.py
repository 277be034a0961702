"""Classify any number of images: reading, predicting and writing overlap, with a few batches in memory."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jobs.convert.collected import Bad
from jobs.errors import InputError, printable
from jobs.evaluate.predict import check_probabilities
from jobs.logs import log
from jobs.orientation import Orientation
from jobs.predict.arrays import by_type
from jobs.predict.classifier import Classifier
from jobs.predict.output import Write
from jobs.predict.rows import to_rows
from jobs.predict.source import Batch, Source
from jobs.train.data.prefetch import read_ahead
from jobs.words import counted

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_SIZE = 500  # that of `evaluate`: so both compute the same bits


@dataclass(kw_only=True)
class Summary:
    """What was classified. `correct`: images whose label was predicted, of those with known labels.

    `unknown`: images with a label that the model does not know, each an error.
    """

    images: int = 0
    inverted: int = 0
    labeled: int = 0
    correct: int = 0
    unknown: int = 0
    bad: list[Bad] = field(default_factory=list)

    def lines(self, model: str) -> Iterator[str]:
        """Yield what people want to know. `model`: its title."""
        inverted = f", {self.inverted:,} of them inverted" if self.inverted else ""
        bad = f"; {counted(len(self.bad), 'unusable picture')} left out" if self.bad else ""
        yield f"{counted(self.images, 'image')} by {model}{inverted}{bad}"
        if self.labeled:
            errors = self.labeled - self.correct
            unknown = f", of which {self.unknown:,} have labels unknown to the model" if self.unknown else ""
            yield f"accuracy {self.correct / self.labeled:.4f} ({counted(errors, 'error')} in {self.labeled}{unknown})"


def classify(
    classifier: Classifier,
    source: Source,
    columns: "pa.Schema",
    write: Write,
    summary: Summary,
    *,
    skip_bad: bool,
    show: Callable[[int, str], None],
) -> None:
    """Write a row for each image of a source, in order, and count them in `summary`.

    `columns`: of the rows. `skip_bad`: log unusable pictures and leave them out; otherwise all are read to list them,
    and an InputError is raised. `show`: called with the number of images done and the pace in words.
    """
    begin = time.monotonic()
    with ThreadPoolExecutor(1) as writer, closing(read_ahead(source.batches)) as batches:
        written: Future[None] | None = None
        for batch in batches:
            _count(batch, summary, skip_bad)
            if len(batch.images) and (skip_bad or not summary.bad):
                rows = _predicted(classifier, batch, columns, summary)
                if written:
                    written.result()
                written = writer.submit(write, rows)
            done = summary.images + len(summary.bad)
            show(done, _pace(done, source.total, time.monotonic() - begin))
        if written:
            written.result()
    if summary.bad and not skip_bad:
        raise _refusal(source, summary)
    if not summary.images and not source.may_be_empty:
        raise InputError(f"{source.title}: found no usable image, expected at least one; fix: correct the path")


def predict_array(
    classifier: Classifier, images: NDArray[Any], orientation: Orientation | None = None, batch_size: int = BATCH_SIZE
) -> NDArray[Any]:
    """Return the probability of each class, float32 [n, classes], for an array of images as `jobs.predict.arrays` says.

    Raises InputError for another shape or type, and for values out of range.
    """
    probabilities = np.empty((len(images), classifier.manifest.classes), np.float32)
    for start in range(0, max(len(images), 1), batch_size):  # at least once, to check the shape
        rows = slice(start, start + batch_size)
        batch = by_type(images[rows], classifier.manifest, orientation, "images")
        if len(batch):
            probabilities[rows] = classifier.probabilities(batch)
    check_probabilities(probabilities, "image {}".format)
    return probabilities


def _count(batch: Batch, summary: Summary, skip_bad: bool) -> None:
    summary.bad += batch.bad
    summary.inverted += batch.inverted
    for each in batch.bad:
        log.warning("%s: %s%s", printable(each.path), each.reason, "; left out" if skip_bad else "")


def _predicted(classifier: Classifier, batch: Batch, columns: "pa.Schema", summary: Summary) -> "pa.RecordBatch":
    probabilities = classifier.probabilities(batch.images)
    check_probabilities(probabilities, lambda row: f"{columns.names[0]} {batch.keys[row]}")
    rows = to_rows(batch.keys, probabilities, classifier.manifest, columns)
    summary.images += len(batch.images)
    if batch.labels is not None:
        is_text = batch.labels.dtype.kind in "US"
        manifest = classifier.manifest
        known = (manifest.class_names if is_text else manifest.labels)[: manifest.classes]
        predicted = np.array(rows["name" if is_text else "label"].to_pylist())
        labels = _text(batch.labels) if is_text else batch.labels
        summary.labeled += len(labels)
        summary.correct += int((predicted == labels).sum())
        summary.unknown += int((~np.isin(labels, known)).sum())
    return rows


def _refusal(source: Source, summary: Summary) -> InputError:
    first = summary.bad[0]
    return InputError(
        f"{source.title}: found {counted(len(summary.bad), 'unusable picture')}, the first "
        f"{printable(first.path)}: {first.reason}; fix: repair or remove them, use --resize for another size, or "
        "leave them out with --skip-bad"
    )


def _pace(done: int, total: int | None, seconds: float) -> str:
    rate = f"{done / seconds:,.0f} images/s"
    if not total or not done:
        return rate
    minutes, rest = divmod(round(max(total - done, 0) * seconds / done), 60)
    return f"{rate}, {minutes}:{rest:02} left"


def _text(labels: NDArray[Any]) -> NDArray[Any]:
    """Return class names as text. Bytes are UTF-8; others match no class."""
    return np.char.decode(labels, "utf-8", "replace") if labels.dtype.kind == "S" else labels
