"""What is in archives, as one self-contained page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs import page, png
from jobs.inspect.archives import Archives
from jobs.inspect.survey import MOST_CLASSES, Images, Surveyed
from jobs.inspect.text import class_label, facts_of
from jobs.words import counted

_TEMPLATE = Path(__file__).with_name("page.html.j2")
_MOST_ROWS = 1000  # of the table of classes


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture and the words under it. `source`: a data: URI."""

    source: str
    words: str
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """The pictures of one class; `label` is empty where classes are not known."""

    label: str
    mean: Picture | None
    samples: list[Picture]


def write_page(path: Path, archives: Archives, parts: Sequence[Surveyed]) -> None:
    """Write the page atomically, readable by its owner alone: it shows images of the data."""
    page.write_private(path, render(archives, parts))


def render(archives: Archives, parts: Sequence[Surveyed]) -> str:
    """Return the page. Every text in it is escaped."""
    names = archives.description.class_names
    labeled = [part for part in parts if part.labels]
    with_images = [part for part in parts if part.images and part.images.header.rows]
    labels = sorted(set().union(*(part.labels.counts for part in labeled if part.labels)))
    html: str = page.template(_TEMPLATE, number=_number).render(
        name=str(archives.path),
        total=sum(part.images.header.rows for part in parts if part.images)
        or sum(part.labels.header.rows for part in labeled if part.labels),
        unit="images" if with_images else "labels",
        shape=_shape(with_images[0].images) if with_images and with_images[0].images else "",
        class_count=len(labels),
        files=_files(parts),
        columns=[part.name for part in labeled],
        classes=_classes(labels[:_MOST_ROWS], labeled, names),
        hidden=max(0, len(labels) - _MOST_ROWS),
        galleries=[_gallery(part.name, part.images, names) for part in with_images if part.images],
        orientation=archives.description.orientation,
        refusal=archives.refusal,
        most_classes=MOST_CLASSES,
    )
    return html


def _number(value: int) -> str:
    return f"{value:,}"


def _shape(images: Images) -> str:
    return " × ".join(map(str, images.header.row_shape)) + f" of {images.header.dtype.name}"


def _files(parts: Sequence[Surveyed]) -> list[tuple[str, str, str]]:
    """Return name, header and content of each archive, in words."""
    rows = []
    for part in parts:
        if part.images:
            rows.append((part.images.path.name, str(part.images.header), facts_of(part.images)))
        if part.labels:
            labels = part.labels
            column = f", by {labels.columns}" if len(labels.header.shape) == 2 else ""
            rows.append((labels.path.name, str(labels.header), f"{counted(len(labels.counts), 'class')}{column}"))
    return rows


def _classes(labels: Sequence[int], parts: Sequence[Surveyed], names: Mapping[int, str]) -> list[Any]:
    """Return for each class its name, and for each part its images and their share of the largest class in percent."""
    rows = []
    for label in labels:
        cells = []
        for part in parts:
            counts = part.labels.counts if part.labels else {}
            most = max(counts.values(), default=1)
            cells.append((counts.get(label, 0), round(100 * counts.get(label, 0) / most, 1)))
        rows.append((class_label(label, names), cells))
    return rows


def _gallery(name: str, images: Images, names: Mapping[int, str]) -> tuple[str, Picture, list[Row]]:
    return name, _picture(images.mean_image, "mean of all images"), _rows(images, names)


def _rows(images: Images, names: Mapping[int, str]) -> list[Row]:
    by_label: dict[int | None, list[Picture]] = {}
    for sample in images.samples:
        caption = f"row {sample.row:,}"
        label = "" if sample.label is None else f" of class {class_label(sample.label, names)}"
        by_label.setdefault(sample.label, []).append(_picture(sample.pixels, f"{caption}{label}", caption))
    return [
        Row(
            label="" if label is None else class_label(label, names),
            mean=None if label is None else _picture(images.class_means[label], f"mean of class {label}", "mean"),
            samples=samples,
        )
        for label, samples in by_label.items()
    ]


def _picture(pixels: Any, words: str, caption: str = "") -> Picture:
    return Picture(source=png.data_uri(pixels), words=words, caption=caption)
