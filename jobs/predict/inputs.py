"""Which images a list of inputs means: pictures, or one file of arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.archive import GZIP_MAGIC
from jobs.convert.entries import SUFFIXES
from jobs.dataset import Manifest
from jobs.errors import InputError, printable
from jobs.orientation import Orientation
from jobs.predict.picture import Polarity
from jobs.predict.picture_files import PICTURES, pictures
from jobs.predict.source import ALL, Share, Source
from jobs.predict.tables import ARRAYS, archive, arrays


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How images are read. `batch_size`: images per forward pass; None for what was not given.

    `share`: of the images, by batches.

    Of arrays: `labels`, an IDX archive; `array`, the name in a .npz; `orientation`. Of pictures: see
    `jobs.predict.picture`.
    """

    batch_size: int
    labels: Path | None = None
    array: str | None = None
    orientation: Orientation | None = None
    resize: bool = False
    background: int | None = None
    polarity: Polarity | None = None
    share: Share = ALL


def source_of(paths: Sequence[Path], manifest: Manifest, reading: Reading) -> Source:
    """Return the images of these inputs, checked as far as headers and names go. Raises InputError."""
    for path in paths:
        if not path.exists():
            raise InputError(f"{printable(str(path))}: found no such file or folder; fix: correct the path")
    tables = [path for path in paths if _is_table(path)]
    _require_used(reading, bool(tables), tables[0] if tables else paths[0])
    if not tables:
        return pictures(
            paths,
            manifest,
            reading.batch_size,
            resize=reading.resize,
            background=reading.background,
            polarity=reading.polarity or "auto",
            share=reading.share,
        )
    if len(paths) > 1:
        raise InputError(
            f"{tables[0]}: found with {len(paths) - 1:,} more inputs, expected one file of arrays, or pictures alone; "
            "fix: predict them one after another"
        )
    if tables[0].name.lower().endswith(ARRAYS):
        return arrays(tables[0], manifest, reading.batch_size, reading.array, reading.orientation, reading.share)
    return archive(tables[0], manifest, reading.batch_size, reading.labels, reading.orientation, reading.share)


def _is_table(path: Path) -> bool:
    """Return whether a path is a file of arrays: by its name, or as IDX by its first two bytes."""
    name = path.name.lower()
    if path.is_dir() or name.endswith((*PICTURES, *SUFFIXES)):
        return False
    if name.endswith(ARRAYS):
        return True
    try:
        with path.open("rb") as file:
            return file.read(2) in (GZIP_MAGIC, b"\0\0")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); fix: correct its permissions") from error


def _require_used(reading: Reading, is_table: bool, path: Path) -> None:
    """Raise InputError for an option that does not apply to the input."""
    name = path.name.lower()
    is_archive = is_table and not name.endswith(ARRAYS)
    given = {
        "labels": (reading.labels, is_archive, "an IDX archive"),
        "array": (reading.array, name.endswith(".npz"), "a .npz"),
        "orientation": (reading.orientation, is_table, "an IDX archive or an array"),
        "resize": (reading.resize or None, not is_table, "pictures"),
        "background": (reading.background, not is_table, "pictures"),
        "polarity": (reading.polarity, not is_table, "pictures"),
    }
    for option, (value, applies, wanted) in given.items():
        if value is not None and not applies:
            raise InputError(f"--{option}: found with {path}, expected with {wanted}; fix: leave it out")
