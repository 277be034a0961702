"""Runs side by side as one self-contained page: what differs in how they were made, and in what they reached."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs import page, png
from jobs.batches import read_labels, read_rows
from jobs.dataset import Manifest, read_manifest
from jobs.errors import IdxtrainError, InputError
from jobs.evaluate import curve
from jobs.evaluate.metrics import classes_of, read_confusions, shown_names, to_matrix
from jobs.evaluate.report import MOST_MATRIX_CLASSES, Cell, number, percent
from jobs.places import Places
from jobs.run_dir import RunDir
from jobs.stage import dataset_of
from pipelines.history import comparison
from pipelines.report.results import Result

_TEMPLATE = Path(__file__).with_name("compare.html.j2")
_PARTS = Path(curve.__file__).parent  # the templates that this page shares with report.html
_MOST_ERRORS = 24  # pictures of each run
_MOST_CHANGES = 20  # of confusions, where there are too many classes for a matrix


@dataclass(frozen=True, kw_only=True)
class OwnError:
    """A test image that one run alone classifies incorrectly. `picture`: a data: URI, empty without the dataset."""

    place: str
    true: str
    predicted: str
    probability: float
    picture: str


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How a run's confusions differ from the first run's. `matrix`: None if there are too many classes.

    `changes`: the largest differences: true class, predicted class, images more.
    """

    name: str
    matrix: list[list[Cell]] | None
    changes: list[tuple[str, str, int]]


def write_page(path: Path, results: Sequence[Result]) -> None:
    """Write the page of two or more runs atomically, readable by its owner alone: it shows images of the data.

    Raises InputError where the folder does not exist.
    """
    if not path.parent.is_dir():
        raise InputError(f"--html {path}: found no folder {path.parent}, expected one; fix: make it")
    if path.is_dir():
        raise InputError(f"--html {path}: found a folder, expected a file; fix: add a file name")
    page.write_private(path, render(results))


def render(results: Sequence[Result]) -> str:
    """Return the page. Every text in it is escaped."""
    runs, measured = [each.run for each in results], [each.metrics for each in results]
    problem = comparison.why_not_comparable(runs, measured)
    has_same_classes = len({tuple(each.label for each in classes_of(metrics.test)) for metrics in measured}) == 1
    html: str = page.template(_TEMPLATE, _PARTS, percent=percent, number=number).render(
        results=results,
        options=comparison.options(runs),
        figures=comparison.results(measured)[1:],
        problem=problem,
        pairs=[] if problem else comparison.pairs({run.run_id: comparison.correct(run)[1] for run in runs}),
        charts=list(_charts(results)),
        line_names={},
        frame=curve,
        names=shown_names(measured[0].test),
        differences=_differences(results) if has_same_classes and not problem else [],
        errors=[] if problem else own_errors(results),
        are_named=any(each.name != str(each.label) for each in measured[0].test.classes),
    )
    return html


def _charts(results: Sequence[Result]) -> Iterator[curve.Chart]:
    curves = {each.name: curve.read_curve(each.run.curve_file) for each in results}

    def series(kind: str, name: str) -> dict[str, NDArray[Any]]:
        points = {run: curve.points_of(measured, kind, name) for run, measured in curves.items()}
        return {run: each for run, each in points.items() if len(each)}

    charts = (
        (curve.loss_chart, "Training loss (logarithmic)", series("train", "loss")),
        (curve.loss_chart, "Validation loss (logarithmic)", series("validation", "loss")),
        (curve.accuracy_chart, "Validation accuracy", series("validation", "accuracy")),
    )
    for chart, title, each in charts:
        if each:
            yield chart(title, each)
    rates = series("train", "rate")
    if rates:
        yield curve.from_zero("Learning rate", rates)


def _differences(results: Sequence[Result]) -> list[Difference]:
    first = results[0].metrics.test
    names, known = shown_names(first), len(first.classes)
    counts = [read_confusions(each.metrics.test) for each in results]
    if len(names) <= MOST_MATRIX_CLASSES:
        matrices = [to_matrix(each, len(names), known) for each in counts]
        return [
            Difference(name=each.name, matrix=_cells(matrix - matrices[0]), changes=[])
            for each, matrix in zip(results[1:], matrices[1:], strict=True)
        ]
    by_pair = [{(true, guess): count for true, guess, count in each.tolist()} for each in counts]
    return [
        Difference(name=each.name, matrix=None, changes=_changes(by_pair[0], own, names))
        for each, own in zip(results[1:], by_pair[1:], strict=True)
    ]


def _cells(difference: NDArray[Any]) -> list[list[Cell]]:
    """Return the cells: `correct` if it is an improvement, more on the diagonal or fewer beside it."""
    largest = max(int(np.abs(difference).max()), 1)
    return [
        [
            Cell(count, (count > 0) == (true == guess), round(abs(count) / largest, 3))
            for guess, count in enumerate(counts)
        ]
        for true, counts in enumerate(difference.tolist())
    ]


def _changes(
    first: dict[tuple[int, int], int], own: dict[tuple[int, int], int], names: Sequence[str]
) -> list[tuple[str, str, int]]:
    more = {pair: own.get(pair, 0) - first.get(pair, 0) for pair in first.keys() | own.keys() if pair[0] != pair[1]}
    largest = sorted((pair for pair in more if more[pair]), key=lambda pair: (-abs(more[pair]), pair))
    return [(names[true], names[guess], more[true, guess]) for true, guess in largest[:_MOST_CHANGES]]


def own_errors(results: Sequence[Result]) -> list[tuple[Result, int, list[OwnError]]]:
    """Return each run with the number of images that it alone classifies incorrectly, and the most confident ones."""
    names = ("index", "label", "predicted", "probability")
    tables = [comparison.predicted(each.run, names) for each in results]
    is_wrong = [table["label"] != table["predicted"] for table in tables]
    times = np.sum(is_wrong, axis=0, dtype=np.int32)
    own = [np.flatnonzero(wrong & (times == 1)) for wrong in is_wrong]
    chosen = [
        alone[np.argsort(-table["probability"][alone], kind="stable")[:_MOST_ERRORS]].tolist()
        for alone, table in zip(own, tables, strict=True)
    ]
    indices = {int(tables[0]["index"][row]) for rows in chosen for row in rows}
    pictures, places = _pictures(results[0].run, indices)
    return [
        (each, len(alone), list(_shown(each, table, rows, pictures, places)))
        for each, table, alone, rows in zip(results, tables, own, chosen, strict=True)
    ]


def _shown(
    result: Result,
    table: Mapping[str, NDArray[Any]],
    rows: Sequence[int],
    pictures: Mapping[int, str],
    places: Places | None,
) -> Iterator[OwnError]:
    """Yield the errors in these rows of a run's predictions. `pictures`: by index."""
    test = result.metrics.test
    names = {each.label: name for each, name in zip(classes_of(test), shown_names(test), strict=True)}
    for row in rows:
        index, label, guess = (int(table[name][row]) for name in ("index", "label", "predicted"))
        yield OwnError(
            place=str(places.of("test", index)) if places else "",
            true=names[label],
            predicted=names[guess],
            probability=float(table["probability"][row]),
            picture=pictures.get(index, ""),
        )


def _pictures(run: RunDir, indices: set[int]) -> tuple[dict[int, str], Places | None]:
    """Return test images of a run's dataset as data: URIs, and the places of its rows; nothing if it is gone."""
    try:
        directory = dataset_of(run)
        manifest = read_manifest(directory)
        return dict(_read(directory, manifest, indices)), Places(directory, manifest)
    except (IdxtrainError, OSError):
        return {}, None


def _read(directory: Path, manifest: Manifest, indices: set[int]) -> Iterator[tuple[int, str]]:
    _, numbers = read_labels(directory, manifest, "test")
    rows = np.flatnonzero(np.isin(numbers, np.array(sorted(indices), np.int64)))
    for row, image in zip(rows, read_rows(directory, manifest, "test", rows), strict=True):
        yield int(numbers[row]), png.data_uri(image)
