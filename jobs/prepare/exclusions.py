"""Read the list of rows to leave out, such as the findings about a data set."""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from jobs.errors import InputError, one_line
from jobs.logs import log

_ROLES = {"train": "train", "training": "train", "validation": "train", "test": "test"}
_FIX = "fix: give a CSV or JSON list with the columns role, row and, for several pairs, tag"


@dataclass(frozen=True)
class Exclusions:
    """The archive rows that are left out of training and validation, increasing, by the tag of their pair."""

    path: Path | None
    by_tag: Mapping[str, tuple[int, ...]]

    def of(self, tag: str, rows: int) -> tuple[int, ...]:
        """Return the rows to leave out of a pair of `rows` rows. Raises InputError for a row that it does not have."""
        excluded = self.by_tag.get(tag, ())
        if excluded and excluded[-1] >= rows:
            raise InputError(
                f"{self.path}: found row {excluded[-1]}, expected 0 to {rows - 1}, the rows of the training archive; "
                "fix: give the list of this data set"
            )
        return excluded

    def require_tags(self, tags: list[str]) -> None:
        """Raise InputError for a tag that no pair has."""
        unknown = sorted(set(self.by_tag) - set(tags))
        if unknown:
            raise InputError(
                f"{self.path}: found the tag {unknown[0]!r}, expected one of {', '.join(map(repr, tags))}; fix: give "
                "the list of this data set"
            )


def read_exclusions(file: str | None) -> Exclusions:
    """Return the rows that a CSV or JSON file lists: columns or keys `role` (or `split`, `archive`), `row` and `tag`.

    Rows of the test archive stay, with a warning: a test set from which rows are picked measures something else. Raises
    InputError for any other content.
    """
    if file is None:
        return Exclusions(None, {})
    path = Path(file)
    rows: dict[str, set[int]] = {}
    kept = 0
    for number, entry in enumerate(_entries(path), start=1):
        role, row = _role(path, number, entry), _row(path, number, entry)
        if role == "test":
            kept += 1
        else:
            rows.setdefault(str(entry.get("tag") or ""), set()).add(row)
    if kept:
        log.warning("prepare: %s: its %s test rows stay: only training rows are left out", path.name, f"{kept:,}")
    return Exclusions(path, {tag: tuple(sorted(each)) for tag, each in rows.items()})


def _entries(path: Path) -> Iterator[Mapping[str, object]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if text.lstrip()[:1] in ("[", "{"):
            listed = json.loads(text)
            if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
                raise InputError(f"{path}: found JSON that is not a list of objects; {_FIX}")
            yield from listed
        else:
            yield from csv.DictReader(text.splitlines())
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise InputError(f"prepare.exclude: {path}: cannot be read ({one_line(error)}); {_FIX}") from error


def _role(path: Path, number: int, entry: Mapping[str, object]) -> str:
    found = next((entry[key] for key in ("role", "archive", "split") if key in entry), None)
    role = _ROLES.get(str(found).split("_")[0].lower())
    if role is None:
        raise InputError(f"{path}: entry {number}: found the role {found!r}, expected train or test; {_FIX}")
    return role


def _row(path: Path, number: int, entry: Mapping[str, object]) -> int:
    found = entry.get("row")
    text = str(found).strip()
    if not (text.isascii() and text.isdecimal()) or isinstance(found, bool) or len(text) > 10:
        raise InputError(f"{path}: entry {number}: found the row {found!r}, expected a number from 0; {_FIX}")
    return int(text)
