"""Write data.html: what a dataset holds, and what is odd about it, as one self-contained page for people."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs import page, png
from jobs.dataset import DATA_PAGE, SPLITS, Manifest
from jobs.places import Place
from jobs.prepare.findings.describe import measure
from jobs.prepare.findings.finding import CSV, ClassFinding, Finding, Kind
from jobs.prepare.findings.pairs import Found, PairFinding
from jobs.prepare.findings.rows import Rows

_TEMPLATE = Path(__file__).with_name("data.html.j2")
_SAMPLES = 8  # of each class
_MOST_PICTURES = 24  # of each kind of finding
_MOST_ROWS = 1000  # of the table of classes
_HEADINGS: Mapping[Kind, str] = {
    "duplicate": "Equal images",
    "conflict": "Equal images under two labels",
    "near-duplicate": "Nearly equal images",
    "near-conflict": "Nearly equal images under two labels",
    "constant": "Constant images",
    "near-constant": "Nearly constant images",
    "outlier": "Far from their class",
}
_OF_NEAR = "Distance: of the pixels, each image centered and scaled. It is 0 for equal images, and 0.1 at most here."
_HINTS: Mapping[Kind, str] = {
    "near-duplicate": _OF_NEAR,
    "near-conflict": _OF_NEAR,
    "near-constant": "Spread: all values but 1 in 200 are within it of their median.",
    "outlier": "The farthest first. Limit: what 1 in 100,000 of a normally distributed class exceeds, or more.",
}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture, as a data: URI, and the words under it."""

    source: str
    label: str
    place: str


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """The findings of one kind: how many there are, and one or two pictures of each of the first.

    `hint`: what the words under the pictures mean.
    """

    heading: str
    hint: str
    count: int
    items: list[tuple[list[Picture], str]]


@dataclass(frozen=True)
class Listed:
    """The findings of one kind: how many there are, and the first of them, with their words."""

    kind: Kind
    count: int
    items: list[tuple[PairFinding, Finding]]


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """One class. `counts`: by split. `share`: of the largest class's training images, in percent."""

    name: str
    counts: tuple[int, ...]
    share: float
    mean: str
    samples: list[str]


def pictured(rows: Rows, *found: Found) -> list[int]:
    """Return the rows whose images the page shows: of these findings and of each class."""
    wanted = [row for number in range(len(rows.means)) for row in _samples(rows, number)]
    for each in chain.from_iterable(of_kind.first(_MOST_PICTURES) for of_kind in found):
        wanted += [each.row, *([each.other] if each.other >= 0 else [])]
    return wanted


def listed(found: Found, words: Callable[[Iterable[PairFinding]], Iterable[Finding]]) -> Listed:
    """Return the findings of a kind that the page shows. `words`: describes findings, one after another."""
    first = found.first(_MOST_PICTURES)
    return Listed(found.kind, len(found), list(zip(first, words(first), strict=True)))


def _samples(rows: Rows, number: int) -> list[int]:
    """Return the first training rows of a class."""
    training: list[int] = np.flatnonzero((rows.sketch.labels == number) & (rows.split == 0))[:_SAMPLES].tolist()
    return training


def write_page(
    directory: Path,
    manifest: Manifest,
    rows: Rows,
    found: Sequence[Listed],
    classes: Sequence[ClassFinding],
    images: Mapping[int, NDArray[Any]],
) -> None:
    """Write data.html atomically, readable by its owner alone: it shows images of the data."""
    html: str = page.template(_TEMPLATE, number="{:,}".format).render(
        manifest=manifest,
        splits=SPLITS,
        file=CSV,
        total=sum(split.rows for split in manifest.splits.values()),
        rows=_class_rows(manifest, rows, images),
        means=len(rows.means),
        galleries=list(_galleries(manifest, rows, found, images)),
        class_findings=list(classes),
        findings=sum(each.count for each in found) + len(classes),
    )
    page.write_private(directory / DATA_PAGE, html)


def _picture(manifest: Manifest, image: NDArray[Any]) -> str:
    return png.data_uri(image.reshape(manifest.shape))


def _class_rows(manifest: Manifest, rows: Rows, images: Mapping[int, NDArray[Any]]) -> list[ClassRow]:
    largest = max(1, *manifest.splits["train"].label_counts)
    return [
        ClassRow(
            name=manifest.class_text(number),
            counts=tuple(manifest.splits[split].label_counts[number] for split in SPLITS),
            share=round(100 * manifest.splits["train"].label_counts[number] / largest, 1),
            mean=png.data_uri(rows.means[number][0]) if number < len(rows.means) and rows.means[number][1] else "",
            samples=[_picture(manifest, images[row]) for row in _samples(rows, number) if row in images],
        )
        for number in range(min(len(manifest.labels), _MOST_ROWS))
    ]


def _galleries(
    manifest: Manifest, rows: Rows, found: Sequence[Listed], images: Mapping[int, NDArray[Any]]
) -> Iterable[Gallery]:
    by_kind = {each.kind: each for each in found if each.items}
    for kind, heading in _HEADINGS.items():
        if kind in by_kind:
            each = by_kind[kind]
            items = [(_of_finding(manifest, *pair, images), measure(pair[0], rows)) for pair in each.items]
            yield Gallery(heading=heading, hint=_HINTS.get(kind, ""), count=each.count, items=items)


def _of_finding(
    manifest: Manifest, each: PairFinding, finding: Finding, images: Mapping[int, NDArray[Any]]
) -> list[Picture]:
    """Return the picture of a finding, and of the image that it is like."""
    here = Place(role=finding.role, tag=finding.tag, row=finding.row, archive=finding.archive, picture=finding.picture)
    label = manifest.class_text(manifest.labels.index(finding.label))
    pictures = [Picture(source=_picture(manifest, images[each.row]), label=label, place=str(here))]
    if each.other >= 0:
        other = Place(
            role=finding.other_role,
            tag=finding.other_tag,
            row=int(finding.other_row),
            archive=finding.other_archive,
            picture=finding.other_picture,
        )
        source = _picture(manifest, images[each.other])
        pictures.append(Picture(source=source, label=finding.other_label, place=str(other)))
    return pictures
