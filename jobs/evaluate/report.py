"""Write report.html: a run's result as one self-contained page for people."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from jobs import page, png
from jobs.dataset import DATA_PAGE, Manifest
from jobs.evaluate import curve
from jobs.evaluate.layers import LayerPictures
from jobs.evaluate.metrics import read_confusions, shown_names, worst_classes, worst_confusions
from jobs.evaluate.reliability import diagram
from jobs.evaluate.results import ImagesOf, Predictions
from jobs.flight_log import read_flights, sums, verdict
from jobs.metrics import Metrics, StageSeconds, TrainMetrics
from jobs.places import Place, Places
from jobs.run_dir import RunDir
from jobs.segments import row_of
from jobs.words import counted

_TEMPLATE = Path(__file__).with_name("report.html.j2")
MOST_MATRIX_CLASSES = 30  # a larger confusion matrix is unreadable: the page lists the most frequent errors instead
_MOST_CONFUSIONS = 40
_MOST_ERRORS = 40  # in the gallery
_MOST_ROWS = 1000  # of the table of classes
_UNKNOWN = "–"
LINE_NAMES = {"train": "training batches", "validation": "validation set"}


@dataclass(frozen=True)
class Cell:
    """One cell of the confusion matrix. `strength`: of its color, in [0, 1]."""

    count: int
    correct: bool
    strength: float


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """An image predicted to be of another class, with that class's probability. `picture`: a data: URI.

    `place`: the archive and the row in it, from 0, with the path of the picture that it was made of, if it is known.
    `true`, `predicted`: the classes' names.
    """

    place: str
    true: str
    predicted: str
    probability: float
    picture: str


def write_report(
    run: RunDir,
    metrics: Metrics,
    manifest: Manifest,
    predictions: Predictions,
    images_of: ImagesOf,
    dataset: Path | None = None,
    layer: LayerPictures | None = None,
) -> None:
    """Write report.html atomically, readable by its owner alone: it shows images of the data.

    `images_of`: returns images of the predictions. `dataset`: the folder whose page it links to. `layer`: pictures of
    the model's first layer.
    """
    page.write_private(run.report_file, render(run, metrics, manifest, predictions, images_of, dataset, layer))


def render(
    run: RunDir,
    metrics: Metrics,
    manifest: Manifest,
    predictions: Predictions,
    images_of: ImagesOf,
    dataset: Path | None = None,
    layer: LayerPictures | None = None,
) -> str:
    """Return the page. Every text in it is escaped."""
    test, names = metrics.test, shown_names(metrics.test)
    flights = read_flights(run.origin.logs)
    ranks, speed = sums(flights), curve.speed_chart(flights)
    is_readable = len(names) <= MOST_MATRIX_CLASSES
    html: str = page.template(_TEMPLATE, percent=percent, number=number).render(
        metrics=metrics,
        data_page=_data_page(run, dataset),
        test=test,
        facts=_facts(run.read_config(), metrics, manifest),
        stages=_stages(metrics.seconds),
        charts=[*curve.charts(curve.read_curve(run.origin.curve_file)), *([speed] if speed else [])],
        line_names=LINE_NAMES,
        frame=curve,
        ranks=ranks,
        verdict=verdict(ranks) if ranks else "",
        calibration=metrics.calibration,
        reliability=diagram(metrics.calibration.bins) if metrics.calibration else None,
        layer=layer,
        channels=manifest.shape[2],
        names=names,
        are_named=any(each.name != str(each.label) for each in test.classes),
        matrix=_matrix(np.array(test.confusion)) if is_readable else None,
        confusions=worst_confusions(read_confusions(test), _MOST_CONFUSIONS),
        classes=worst_classes(test.classes, _MOST_ROWS),
        mistakes=most_confident_mistakes(
            predictions, images_of, names, _MOST_ERRORS, Places(dataset, manifest) if dataset else None
        ),
    )
    return html


def _data_page(run: RunDir, dataset: Path | None) -> str:
    """Return the relative URL of the page that shows the dataset; empty if there is none."""
    if dataset is None or not (dataset / DATA_PAGE).exists():
        return ""
    return quote(os.path.relpath(dataset / DATA_PAGE, run.path))


def percent(share: float | None, digits: int = 2) -> str:
    """Return a share in [0, 1] in percent, e.g. 0.9924 as "99.24 %"; None as a dash."""
    return _UNKNOWN if share is None else f"{100 * share:.{digits}f} %"


def number(value: float | None, digits: int = 0) -> str:
    """Return a number with thousands separators; None as a dash."""
    return _UNKNOWN if value is None else f"{value:,.{digits}f}"


def _facts(config: Mapping[str, Any], metrics: Metrics, manifest: Manifest) -> Sequence[tuple[str, str]]:
    height, width, channels = manifest.shape
    train, validation = metrics.train, metrics.validation
    return [
        ("Recipe", metrics.recipe),
        ("Model", str(config["train"].get("model", _UNKNOWN))),
        ("Seed", str(metrics.seed)),
        ("Data set", str(config["fetch"].get("dataset", _UNKNOWN))),
        ("Dataset ID", metrics.dataset_id),
        ("Images", f"{height} × {width} × {channels}, {counted(manifest.classes, 'class')}"),
        ("Test images also in training data", number(manifest.duplicates.test_images_in_train)),
        ("World size (ranks)", number(metrics.world_size)),
        ("Precision", train.precision),
        *_training_length(train),
        ("Images trained on", number(train.images)),
        ("Training speed", f"{number(train.images_per_second)} images/s"),
        ("Validation accuracy", f"{percent(validation.accuracy)} of {number(validation.count)}"),
        ("Test loss (cross-entropy)", number(metrics.test.loss, 4)),
    ]


def _training_length(train: TrainMetrics) -> Iterator[tuple[str, str]]:
    ended_early = " (ended early)" if train.ended_by == "early-stopping" else ""
    yield "Steps", f"{number(train.steps)}{ended_early}"
    if train.kept_step not in (None, train.steps):
        yield "Model saved is that of step", number(train.kept_step)
    if train.batch_size is not None:
        yield "Batch size", number(train.batch_size)


def _stages(seconds: StageSeconds) -> list[tuple[str, float, float]]:
    """Return name, seconds and share of the total, in percent, of each stage."""
    stages = seconds.model_dump(exclude={"total"})
    return [(name, value, round(100 * value / (seconds.total or 1.0), 1)) for name, value in stages.items()]


def _matrix(confusion: NDArray[Any]) -> list[list[Cell]]:
    """Lay out the matrix. The strength of a color is the square root of the cell's share of its true class.

    Errors are rare, so they have their own scale, up to the largest of them.
    """
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    diagonal = np.eye(*shares.shape)  # rows of unseen classes, below it, have no correct cell
    largest_error = (shares * (1 - diagonal)).max() or 1.0
    strengths = np.sqrt(shares / np.where(diagonal, 1.0, largest_error)).round(3).tolist()
    return [
        [Cell(count, true == predicted, strengths[true][predicted]) for predicted, count in enumerate(counts)]
        for true, counts in enumerate(confusion.tolist())
    ]


def most_confident_mistakes(
    predictions: Predictions, images_of: ImagesOf, names: Sequence[str], limit: int, places: Places | None = None
) -> list[Mistake]:
    """Return the incorrect predictions with the highest probability, highest first, then by index.

    `images_of`: returns images of the predictions. `names`: by class number. `places`: of the dataset's rows.
    """
    incorrect = np.flatnonzero(~predictions.correct)
    order = np.lexsort((predictions.indices[incorrect], -predictions.confidence[incorrect]))
    rows = incorrect[order][:limit].tolist()

    def place(index: int) -> Place:
        return places.of("test", index) if places else Place(role="test", tag="", row=row_of(index), archive="test")

    return [
        Mistake(
            place=str(place(int(predictions.indices[row]))),
            true=names[predictions.labels[row]],
            predicted=names[predictions.predicted[row]],
            probability=float(predictions.confidence[row]),
            picture=png.data_uri(image),
        )
        for row, image in zip(rows, images_of(rows), strict=True)
    ]
