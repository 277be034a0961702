"""Find the names of the pictures that archives were made of, in the `sources.csv` that `idxtrain convert` writes."""

import csv
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from jobs.archive import Archive, role_of_key
from jobs.description import PictureList
from jobs.errors import printable
from jobs.fetch.names import role_of
from jobs.files import sha256_file
from jobs.pictures import ARCHIVES, CHECKSUMS, COLUMNS, SOURCES

log = logging.getLogger("idxtrain")


def picture_lists(archives: Mapping[str, Archive], rows: Mapping[str, int]) -> dict[str, PictureList]:
    """Return the list of each image archive that has one beside it, by the archive's key.

    `rows`: of each archive. A list is for archives that have the names that `convert` gave them, and the checksums that
    it wrote, if those are there. One that does not fit is ignored, with a warning; a file of this name with other
    columns is not such a list.
    """
    lists: dict[str, PictureList] = {}
    for file, names in _by_file({key: archive.path for key, archive in archives.items()}).items():
        try:
            counts = _counts(file, names.values())
            if counts is None:
                continue
            checksums = _checksums(file.with_name(CHECKSUMS))
            for key, name in names.items():
                archive = archives[key]
                if checksums.get(archive.path.name, archive.sha256) != archive.sha256:
                    raise ValueError(f"found a list for another {archive.path.name}, by its checksum in {CHECKSUMS}")
                if counts[name] != rows[key]:
                    raise ValueError(f"found {counts[name]:,} rows for {name}, expected {rows[key]:,}")
            digest = sha256_file(file)
        except (OSError, ValueError, csv.Error) as error:
            log.warning("fetch: %s: %s; the pictures are not named", file, printable(str(error)))
            continue
        lists |= {key: PictureList(path=file, sha256=digest, archive=name) for key, name in names.items()}
    return lists


def _by_file(paths: Mapping[str, Path]) -> dict[Path, dict[str, str]]:
    """Return the lists beside image archives; for each, what it calls each archive, by the archive's key."""
    files: dict[Path, dict[str, str]] = {}
    for key, path in paths.items():
        file, name = path.parent / SOURCES, path.name.partition("-")[0]
        is_converts = role_of_key(key).endswith("images") and name in ARCHIVES and ARCHIVES[name] == role_of(path.name)
        if is_converts and file.is_file():
            files.setdefault(file, {})[key] = name
    return files


def _checksums(file: Path) -> dict[str, str]:
    """Return the SHA-256 of each file that a list in the form of `sha256sum` names; empty if there is no list."""
    if not file.is_file():
        return {}
    with file.open(encoding="utf-8") as text:
        return {name.strip(): digest for digest, _, name in (line.partition("  ") for line in text)}


def _counts(file: Path, names: Iterable[str]) -> dict[str, int] | None:
    """Return how many rows a list has for each archive; None if it has other columns. Raises ValueError for a gap."""
    rows = dict.fromkeys(names, 0)
    with file.open(encoding="utf-8", newline="") as text:
        lines = csv.reader(text)
        if tuple(next(lines, ())) != COLUMNS:
            return None
        for line in lines:
            if len(line) != len(COLUMNS):
                raise ValueError(f"found {len(line)} columns in line {lines.line_num}, expected {len(COLUMNS)}")
            if line[0] in rows:
                if line[1] != str(rows[line[0]]):
                    raise ValueError(f"found row {line[1]} in line {lines.line_num}, expected {rows[line[0]]}")
                rows[line[0]] += 1
    return rows
