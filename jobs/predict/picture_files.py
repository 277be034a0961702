"""Pictures to classify: files, folders and archives of them, decoded on all CPUs."""

from collections.abc import Iterator, Sequence, Set
from functools import partial
from itertools import chain, islice
from pathlib import Path

import numpy as np

from jobs.convert.collected import Bad
from jobs.convert.entries import MOST_BYTES, SUFFIXES, Entry, count, entries
from jobs.convert.picture import NOT_A_PICTURE, BadPictureError
from jobs.convert.pictures import decoding_threads, groups
from jobs.dataset import Manifest
from jobs.errors import printable
from jobs.logs import log
from jobs.parallel import map_ahead
from jobs.predict.picture import Picture, Polarity, read_picture
from jobs.predict.source import ALL, Batch, Share, Source

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")

Decoded = tuple[str, Picture | str]  # the file, and the reason why there is no picture


def pictures(
    paths: Sequence[Path],
    manifest: Manifest,
    batch_size: int,
    *,
    resize: bool = False,
    background: int | None = None,
    polarity: Polarity = "auto",
    share: Share = ALL,
) -> Source:
    """Return the pictures of files, folders (recursively, sorted), .zip, .tar and .tar.gz.

    `resize`, `background`, `polarity`: see `jobs.predict.picture`. A file of a folder or an archive that neither is a
    picture nor has the name of one is logged and left out.
    """
    totals = [_count(path) for path in paths]
    given = {str(path) for path in paths}
    decode = partial(_decode_group, manifest=manifest, resize=resize, background=background, polarity=polarity)
    files = share.of(chain.from_iterable(map(_entries, paths)), batch_size)
    decoded = chain.from_iterable(map_ahead(decode, groups(files), decoding_threads()))
    return Source(
        title=str(paths[0]) if len(paths) == 1 else f"{len(paths):,} inputs",
        key="picture",
        total=None if None in totals else share.rows(sum(each for each in totals if each is not None), batch_size),
        batches=_batches(decoded, batch_size, given, manifest.shape),
        may_be_empty=share.number > 1,
    )


def _is_container(path: Path) -> bool:
    return path.is_dir() or path.name.lower().endswith(SUFFIXES)


def _count(path: Path) -> int | None:
    return count(path) if _is_container(path) else 1


def _entries(path: Path) -> Iterator[Entry]:
    """Yield the files of an input, with the path at which people find each."""
    if _is_container(path):
        for entry in entries(path):
            yield Entry(f"{path}/{entry.path}", entry.data, entry.fault)
        return
    try:
        size = path.stat().st_size
        fault = f"found {size:,} bytes, expected at most {MOST_BYTES:,}" if size > MOST_BYTES else ""
        yield Entry(str(path), b"" if fault else path.read_bytes(), fault)
    except OSError as error:
        yield Entry(str(path), fault=f"cannot be read ({error.strerror})")


def _decode_group(
    group: Sequence[Entry], manifest: Manifest, resize: bool, background: int | None, polarity: Polarity
) -> list[Decoded]:
    result: list[Decoded] = []
    for entry in group:
        try:
            if entry.fault:
                raise BadPictureError(entry.fault)
            picture = read_picture(entry.data, manifest, resize=resize, background=background, polarity=polarity)
            result.append((entry.path, picture))
        except BadPictureError as error:
            result.append((entry.path, str(error)))
    return result


def _batches(decoded: Iterator[Decoded], size: int, given: Set[str], shape: tuple[int, int, int]) -> Iterator[Batch]:
    """Gather pictures, and what is unusable among them, into batches of at most `size` of both."""
    while group := list(islice(decoded, size)):
        usable = [(path, each) for path, each in group if isinstance(each, Picture)]
        reasons = [(path, each) for path, each in group if isinstance(each, str)]
        aside = [path for path, reason in reasons if _is_aside(path, reason) and path not in given]
        for path in aside:
            log.info("%s: left out, as it is not a picture", printable(path))
        yield Batch(
            keys=[path for path, _ in usable],
            images=np.array([each.image for _, each in usable], np.float32).reshape(-1, *shape),
            bad=[Bad(path=path, reason=reason) for path, reason in reasons if path not in aside],
            inverted=sum(each.is_inverted for _, each in usable),
        )


def _is_aside(path: str, reason: str) -> bool:
    return reason.startswith(NOT_A_PICTURE) and not path.lower().endswith(PICTURES)
