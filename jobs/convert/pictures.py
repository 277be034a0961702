"""Collect the pictures of a folder or an archive: decode them on all CPUs, find split and class, list the unusable."""

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jobs.convert.collected import Bad, Collected, collected
from jobs.convert.entries import Entry, count, entries
from jobs.convert.labels import Value
from jobs.convert.layout import Layout, mixed
from jobs.convert.options import Options, Split
from jobs.convert.picture import MOST_PIXELS, NOT_A_PICTURE, BadPictureError, decode
from jobs.convert.staging import Staging
from jobs.errors import InputError, printable
from jobs.logs import log
from jobs.parallel import map_ahead
from jobs.progress import Progress
from jobs.words import counted

_FILES_PER_TASK = 64  # of small pictures: handing over each alone costs more than decoding it
_BYTES_PER_TASK = 8 << 20
_MOST_WORKERS = 16  # each may decode a picture of MOST_PIXELS
_SHOWN = 5  # sizes that an error lists

T = TypeVar("T")


class Kind(NamedTuple):
    """What all pictures of a source must have in common."""

    height: int
    width: int
    channels: int
    bits: int


# Path, and pixels, or only what they are, or the reason why there are none.
Decoded = tuple[str, NDArray[Any] | Kind | str]


def collect(source: Path, staging: Staging, options: Options) -> Collected:
    """Read all pictures of a folder, .tar, .tar.gz or .zip.

    Raises InputError if sizes, channels or bits differ, or if there is no usable picture. Unusable files are in `bad`.
    """
    paths, bad = stage(entries(source), count(source), source, staging, options)
    return _arrange(source, staging, paths, bad, options)


def stage(
    items: Iterable[Entry], total: int | None, source: Path, staging: Staging, options: Options
) -> tuple[list[str], list[Bad]]:
    """Decode and stage pictures; return the paths of the staged ones, in the order given, and the unusable ones.

    `total`: how many there are, if known. Raises InputError if sizes, channels or bits differ.
    """
    Image.MAX_IMAGE_PIXELS = MOST_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)  # then the picture is refused
        warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # on odd metadata, which are not read
        with Progress(f"decoding {source}", total, "pictures") as progress:
            paths, bad, kinds = _decode_all(items, staging, options, progress)
    _check_kinds(source, kinds)
    return paths, bad


def decoded(items: Iterable[Entry], options: Options) -> Iterator[Sequence[Decoded]]:
    """Decode pictures on all CPUs; yield them in order, in groups. Only a few groups are in memory at a time.

    Only pictures like the first have their pixels: with another one among them none is written.
    """
    entries_left = iter(items)
    like: Kind | None = None
    at_once = 1
    while like is None:
        entry = next(entries_left, None)
        if entry is None:
            return
        pixels = _decode(entry, options, None)
        if not isinstance(pixels, str | Kind):
            like = _kind(pixels)
            at_once = max(1, min(_FILES_PER_TASK, _BYTES_PER_TASK // pixels.nbytes))
        yield [(entry.path, pixels)]
    yield from map_ahead(
        partial(_decode_group, options=options, like=like), groups(entries_left, at_once), decoding_threads()
    )


def decoding_threads() -> int:
    """Return how many threads decode pictures at a time."""
    return min(_MOST_WORKERS, len(os.sched_getaffinity(0)))


def groups(items: Iterable[Entry], most: int = _FILES_PER_TASK) -> Iterator[list[Entry]]:
    """Yield entries in order in groups of at most `most`, or of about 8 MB if they are larger."""
    group: list[Entry] = []
    size = 0
    for entry in items:
        group.append(entry)
        size += len(entry.data)
        if len(group) == most or size > _BYTES_PER_TASK:
            yield group
            group, size = [], 0
    if group:
        yield group


def _decode_group(group: Sequence[Entry], options: Options, like: Kind) -> list[Decoded]:
    return [(entry.path, _decode(entry, options, like)) for entry in group]


def _decode(entry: Entry, options: Options, like: Kind | None) -> "NDArray[Any] | Kind | str":
    if entry.fault:
        return entry.fault
    try:
        pixels = decode(entry.data, options.size, options.channels, options.background)
    except BadPictureError as error:
        return str(error)
    kind = _kind(pixels)
    return pixels if like in (None, kind) else kind


def _kind(pixels: NDArray[Any]) -> Kind:
    height, width, channels = pixels.shape
    return Kind(height, width, channels, pixels.itemsize * 8)


def _decode_all(
    items: Iterable[Entry], staging: Staging, options: Options, progress: Progress
) -> tuple[list[str], list[Bad], Counter[Kind]]:
    """Stage all pictures that are like the first; return the paths of the staged, the unusable, and what was seen."""
    paths: list[str] = []
    bad: list[Bad] = []
    kinds: Counter[Kind] = Counter()
    for group in decoded(items, options):
        images = []
        for path, pixels in group:
            if isinstance(pixels, str):
                bad.append(Bad(path=path, reason=pixels))
            elif isinstance(pixels, Kind):
                kinds[pixels] += 1
            else:
                kinds[_kind(pixels)] += 1
                paths.append(path)
                images.append(pixels)
        if images and len(kinds) == 1:
            staging.append(np.stack(images))
        progress.update(sum(kinds.values()) + len(bad), f"{len(bad)} unusable" if bad else "")
    return paths, bad, kinds


def _check_kinds(source: Path, kinds: Counter[Kind]) -> None:
    """Raise InputError unless all pictures have one size, number of channels and number of bits."""
    sizes = _counted(kinds, lambda kind: (kind.height, kind.width))
    channels = _counted(kinds, lambda kind: kind.channels)
    bits = _counted(kinds, lambda kind: kind.bits)
    if len(sizes) > 1:
        listed = ", ".join(f"{h}x{w} ({n:,})" for (h, w), n in islice(sizes.items(), _SHOWN))
        more = f" and {len(sizes) - _SHOWN:,} more" if len(sizes) > _SHOWN else ""
        height, width = next(iter(sizes))
        raise InputError(
            f"{source}: found pictures of {len(sizes):,} sizes (height x width): {listed}{more}, expected one; "
            f"fix: choose the size to resample to, e.g. --size {height}x{width}"
        )
    if len(channels) > 1:
        raise InputError(
            f"{source}: found {channels[1]:,} gray and {channels[3]:,} color pictures, expected one kind; "
            "fix: choose --channels 1 or --channels 3"
        )
    if len(bits) > 1:
        raise InputError(
            f"{source}: found {counted(bits[8], 'picture')} of 8 bits and {bits[16]:,} of 16, expected one kind; "
            "fix: convert one kind first, as there is no common scale"
        )


def _counted(kinds: Counter[Kind], part: Callable[[Kind], T]) -> dict[T, int]:
    """Return how many pictures have each size, or number of channels or bits; the most frequent first."""
    counts: Counter[T] = Counter()
    for kind in sorted(kinds):
        counts[part(kind)] += kinds[kind]
    return dict(counts.most_common())


def _arrange(source: Path, staging: Staging, paths: list[str], bad: list[Bad], options: Options) -> Collected:
    """Give each picture its split and class, and the splits their order."""
    layout = Layout(paths, str(source), options)
    placed: list[tuple[int, Split, Value]] = []
    seen: set[str] = set()
    for row in mixed(paths):
        path = paths[row]
        place = layout.place(path)
        if place is None or path in seen:
            bad.append(Bad(path=path, reason="in no class folder" if place is None else "twice in the archive"))
        elif place[0] != "omit":
            placed.append((row, place[0], place[1]))
        seen.add(path)
    aside = [each.path for each in bad if each.reason.startswith(NOT_A_PICTURE) and layout.place(each.path) is None]
    if aside:
        listed = printable(", ".join(aside[:_SHOWN])) + (f" and {len(aside) - _SHOWN:,} more" if aside[_SHOWN:] else "")
        log.info("%s: no pictures, and in no class folder: %s", source, listed)
    bad = [each for each in bad if each.path not in aside]
    return collected(placed, staging, paths, sorted(bad, key=lambda each: each.path), str(source))
