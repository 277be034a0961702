"""Show which labels are probably incorrect: suspects.csv, ranking.csv and labels.html.

suspects.csv has the suspects of confident learning in the form that `prepare.exclude` reads. ranking.csv has the
strongest doubts of each archive, at least 100, whether suspects or not: for people who look at pictures.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from jobs import page, png
from jobs.dataset import Manifest, Split
from jobs.files import write_text
from jobs.places import Places

SUSPECTS, RANKING, PAGE = "suspects.csv", "ranking.csv", "labels.html"
_TEMPLATE = Path(__file__).with_name("labels.html.j2")
_LEAST_RANKED = 100
_MOST_PICTURES = 100  # of each archive
_COLUMNS = ("role", "tag", "row", "split", "finding", "label", "name", "detail", "archive", "picture")


@dataclass(frozen=True, kw_only=True)
class Row:
    """The verdict on one row. `number`: of its image. `given`, `suggested`: class numbers. `margin`: in [-1, 1]."""

    number: int
    split: Split
    index: int
    given: int
    suggested: int
    margin: float
    is_suspect: bool


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """A row as the page shows it."""

    picture: str
    given: str
    suggested: str
    margin: float
    place: str
    is_suspect: bool


def write_suspects(
    folder: Path, directory: Path, manifest: Manifest, rows: Sequence[Row], images: NDArray[Any]
) -> None:
    """Write the three files. `rows`: of each archive, the strongest doubt first. `images`: float32 [n, values]."""
    places = Places(directory, manifest)
    of_test = [row for row in rows if row.split == "test"]
    of_training = [row for row in rows if row.split != "test"]
    lines = {row.number: _line(row, places, manifest) for row in rows if row.is_suspect}
    write_text(folder / SUSPECTS, _table(_COLUMNS, [lines[row.number] for row in rows if row.is_suspect]))
    ranked = []
    for part in (of_training, of_test):
        length = max(_LEAST_RANKED, sum(row.is_suspect for row in part))
        ranked += [(rank, *_line(row, places, manifest)) for rank, row in enumerate(part[:length], 1)]
    write_text(folder / RANKING, _table(("rank", *_COLUMNS), ranked))
    parts = [
        (
            words,
            sum(row.is_suspect for row in part),
            [_doubt(row, places, manifest, images) for row in part[:_MOST_PICTURES]],
        )
        for words, part in (("Training archive", of_training), ("Test archive", of_test))
        if part
    ]
    html: str = page.template(_TEMPLATE, number="{:,}".format).render(
        manifest=manifest, parts=parts, suspects=len(lines), suspects_file=SUSPECTS, ranking_file=RANKING
    )
    page.write_private(folder / PAGE, html)


def _line(row: Row, places: Places, manifest: Manifest) -> tuple[Any, ...]:
    place = places.of(row.split, row.index)
    finding = "label-suspect" if row.is_suspect else "label-doubt"
    detail = f"suggested {manifest.class_text(row.suggested)}, margin {row.margin:.4f}"
    label, name = manifest.labels[row.given], manifest.class_names[row.given]
    return place.role, place.tag, place.row, row.split, finding, label, name, detail, place.archive, place.picture


def _table(columns: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows(lines)
    return text.getvalue()


def _doubt(row: Row, places: Places, manifest: Manifest, images: NDArray[Any]) -> Doubt:
    return Doubt(
        picture=png.data_uri(images[row.number].reshape(manifest.shape)),
        given=manifest.class_text(row.given),
        suggested=manifest.class_text(row.suggested),
        margin=row.margin,
        place=str(places.of(row.split, row.index)),
        is_suspect=row.is_suspect,
    )
