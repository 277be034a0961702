"""What runs and their data take on the disk."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from jobs.dataset_store import read_record
from jobs.errors import InputError
from jobs.run_dir import RunDir, Work
from jobs.stage import dataset_of
from jobs.text_table import text_table
from jobs.words import counted
from pipelines import runs

_UNITS = ("kB", "MB", "GB", "TB")


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a work folder. `size`: in bytes. `detail`: for people, such as how many runs use it."""

    name: str
    size: int
    detail: str = ""


def parts(work: Work) -> list[Part]:
    """Return the parts of a work folder that take space; raise InputError where it cannot be read.

    A file with several names, such as one that datasets share, counts in the part that comes first.
    """
    all_runs = runs.all_of(work)
    users = _users(all_runs)
    seen: set[tuple[int, int]] = set()
    listed = [Part(name="runs", size=size_of(work.runs, seen), detail=counted(len(all_runs), "run"))]
    with runs.reading(work):
        datasets = sorted(work.datasets.iterdir()) if work.datasets.exists() else []
    for folder in datasets:
        detail = f"used by {counted(users[folder], 'run')}" if folder in users else "used by no run"
        if elsewhere := in_store(folder):
            detail += f"; {elsewhere}"
        listed.append(Part(name=f"datasets/{folder.name}", size=size_of(folder, seen), detail=detail))
    for folder in (work.segments, work.archives, work.registry, work.retrains, work.sweeps, work.bin):
        listed.append(Part(name=folder.name, size=size_of(folder, seen)))
    return [part for part in listed if part.size]


def lines(listed: Sequence[Part]) -> list[str]:
    """Return the parts as a table with their total."""
    rows = [(part.name, size_text(part.size), part.detail) for part in listed]
    return text_table(
        ("folder", "size", ""), [*rows, ("total", size_text(sum(p.size for p in listed)), "")], right=(1,)
    )


def size_of(folder: Path, seen: set[tuple[int, int]] | None = None, *, only_own: bool = False) -> int:
    """Return the bytes of all files below a folder; 0 if there is none or it cannot be read.

    `seen`: device and inode of files with several names that were counted before; new ones are added.
    `only_own`: leave out files that have another name elsewhere, which do not free space when the folder is removed.
    """
    seen = set() if seen is None else seen
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                status = os.lstat(f"{parent}/{name}")
            except OSError:  # removed in the meantime
                continue
            if status.st_nlink > 1:
                if only_own or (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
            total += status.st_size
    return total


def size_text(size: int) -> str:
    """Return a number of bytes for people: 940 B, 1.2 MB, 38 GB."""
    if size < 1000:
        return f"{size} B"
    value = float(size)
    for unit in _UNITS:
        value /= 1000
        if value < 999.5 or unit == _UNITS[-1]:
            break
    return f"{value:.1f} {unit}" if value < 9.95 else f"{value:,.0f} {unit}"


def in_store(dataset: Path) -> str:
    """Return where a dataset's shards are if that is an object store, with their size; else an empty text."""
    with suppress(InputError, OSError):
        if record := read_record(dataset):
            return f"{size_text(record.bytes)} of shards at {record.place}"
    return ""


def _users(all_runs: Sequence[RunDir]) -> dict[Path, int]:
    """Return how many runs use each dataset."""
    users: dict[Path, int] = {}
    for run in all_runs:
        try:
            dataset = dataset_of(run)
        except (InputError, OSError):
            continue
        users[dataset] = users.get(dataset, 0) + 1
    return users
