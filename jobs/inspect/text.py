"""What is in archives, as lines of text."""

from collections.abc import Mapping, Sequence

from jobs.errors import printable
from jobs.inspect.archives import Archives
from jobs.inspect.survey import Images, Labels, Surveyed
from jobs.inspect.terminal import Screen, bar, pictures
from jobs.text_table import text_table
from jobs.words import counted

_MOST_ROWS = 40  # of the table of classes
_MOST_PICTURES = 11  # samples, after the mean image
_BAR = 24  # characters


def lines(archives: Archives, parts: Sequence[Surveyed], display: Screen) -> list[str]:
    """Return the text: the archives, the classes, and pictures of each part."""
    result = []
    for part in parts:
        result += [facts for facts in (_image_facts(part.images), _label_facts(part.labels)) if facts]
    if archives.description.orientation != "none":
        result.append(f"images are shown upright: {archives.description.orientation}")
    result.append("")
    labeled = [part for part in parts if part.labels]
    if labeled:
        result += [*_classes(labeled, archives.description.class_names, display), ""]
    for part in parts:
        if part.images and part.images.header.rows:
            result += [*_pictures(part.name, part.images, archives.description.class_names, display)]
    return result[:-1] if result[-1] == "" else result


def class_label(label: int, names: Mapping[int, str]) -> str:
    """Return a class for people: its label, and its name if it has another one."""
    name = names.get(label, str(label))
    return str(label) if name == str(label) else f"{label} {printable(name)}"


def facts_of(images: Images) -> str:
    """Return the statistics of pixels in words."""
    words = f"pixels {images.low:g} to {images.high:g}, mean {images.mean:.4g}, std {images.std:.4g}"
    if images.not_finite:
        words += f", {images.not_finite:,} not finite"
    return words + (f"; {counted(images.constant, 'image')} of one value" if images.constant else "")


def _image_facts(images: Images | None) -> str:
    return f"{printable(images.path.name)}: {images.header}\n  {facts_of(images)}" if images else ""


def _label_facts(labels: Labels | None) -> str:
    if labels is None:
        return ""
    column = f", counted by {labels.columns}" if len(labels.header.shape) == 2 else ""
    return f"{printable(labels.path.name)}: {labels.header}; {counted(len(labels.counts), 'class')}{column}"


def _classes(parts: Sequence[Surveyed], names: Mapping[int, str], display: Screen) -> list[str]:
    counts = [part.labels.counts for part in parts if part.labels]
    labels = sorted(set().union(*counts))
    most = max(max(each.values(), default=0) for each in counts) or 1
    shown = labels if len(labels) <= _MOST_ROWS else sorted(labels, key=lambda label: -counts[0].get(label, 0))
    shown = [*shown[: _MOST_ROWS // 2], *shown[-_MOST_ROWS // 2 :]] if len(labels) > _MOST_ROWS else shown
    rows = [
        [
            class_label(label, names),
            *(f"{each.get(label, 0):,}" for each in counts),
            bar(counts[0].get(label, 0) / most, _BAR, display),
        ]
        for label in shown
    ]
    if len(labels) > _MOST_ROWS:
        rows.insert(_MOST_ROWS // 2, [f"… {len(labels) - _MOST_ROWS:,} more", *[""] * (len(counts) + 1)])
    rows.append(["all", *(f"{sum(each.values()):,}" for each in counts), ""])
    return text_table(["class", *(part.name for part in parts), ""], rows, right=range(1, len(counts) + 1))


def _pictures(name: str, images: Images, names: Mapping[int, str], display: Screen) -> list[str]:
    """Return the mean image, then samples: the first of each class, or of all images."""
    firsts, seen = [], set()
    for sample in images.samples:
        if sample.label is None or sample.label not in seen:
            firsts.append(sample)
            seen.add(sample.label)
    firsts = firsts[:_MOST_PICTURES]
    captions = [f"row {each.row}" if each.label is None else class_label(each.label, names) for each in firsts]
    shown = [images.mean_image, *(each.pixels for each in firsts)]
    return [f"{printable(name)}:", *pictures(shown, ["mean", *captions], display)]
