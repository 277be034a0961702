"""findings.csv and findings.json, beside a dataset's manifest: what prepare noticed. Light: no NumPy.

findings.csv has a line per image that could be left out, in the form that `prepare.exclude` reads: `role` (train or
test), `tag` (of a tagged training pair) and `row` (in the archive, from 0) name the image. It lists the first 100,000
of each kind. findings.json counts all of them, and lists what is odd about whole classes.
"""

import csv
import json
import shlex
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from jobs.errors import InputError
from jobs.files import read_object, sealed, take_seal, write_atomic, write_json

CSV, JSON = "findings.csv", "findings.json"

Kind = Literal[
    "duplicate", "near-duplicate", "conflict", "near-conflict", "constant", "near-constant", "outlier",
    "few-images", "imbalance", "shifted-share",
]  # fmt: skip
KINDS: tuple[Kind, ...] = get_args(Kind)
# How the log names them.
WORDS: Mapping[Kind, str] = {
    "duplicate": "images with the same pixels as another",
    "near-duplicate": "images nearly the same as another",
    "conflict": "images with the same pixels as one of another class",
    "near-conflict": "images nearly the same as one of another class",
    "constant": "images of a single value",
    "near-constant": "images of a single value but for specks",
    "outlier": "images far from their class",
    "few-images": "classes of very few training images",
    "imbalance": "classes of far fewer training images than the largest",
    "shifted-share": "classes whose share of the test split is another",
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One image. `row`: in the archive, from 0. `label`: in the archive. `other_…`: the image it is like, or empty.

    `picture`: the path of the picture that the image was made of, if it is known: see `jobs.pictures`.
    """

    role: str
    tag: str
    row: int
    split: str
    finding: Kind
    label: int
    name: str
    detail: str
    other_role: str = ""
    other_row: int | str = ""
    other_tag: str = ""
    archive: str = ""
    other_archive: str = ""
    other_label: str = ""
    picture: str = ""
    other_picture: str = ""


@dataclass(frozen=True, kw_only=True)
class ClassFinding:
    """One class. `label`: in the archives."""

    finding: Kind
    label: int
    name: str
    detail: str


def write(
    directory: Path, images: Iterable[Finding], classes: Sequence[ClassFinding], counts: Mapping[Kind, int]
) -> None:
    """Write both files into a dataset. `images`: taken one after another. `counts`: of findings, listed or not."""

    def write_table(path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow([field.name for field in fields(Finding)])
            table.writerows(vars(each).values() for each in images)

    write_atomic(directory / CSV, write_table)
    write_json(directory / JSON, sealed({"counts": dict(counts), "classes": [asdict(each) for each in classes]}))


def read_counts(directory: Path) -> dict[str, int]:
    """Return the number of findings of each kind of a dataset. Raises InputError if they are missing or altered."""
    path, fix = directory / JSON, f"remove {directory} and prepare it again"
    raw: dict[str, Any] = read_object(path, fix)
    if not take_seal(raw):
        raise InputError(f"{path}: found a SHA-256 that does not match, expected unchanged content; fix: {fix}")
    return {str(kind): int(number) for kind, number in raw["counts"].items()}


def require_none(directory: Path, accepted: Iterable[str]) -> None:
    """Raise InputError, naming counts and file, if a dataset has findings of a kind that is not accepted."""
    known = set(accepted)
    counts = {kind: number for kind, number in read_counts(directory).items() if number and kind not in known}
    if counts:
        listed = ", ".join(f"{number} {kind}" for kind, number in counts.items())
        exclude = shlex.quote(f"prepare.exclude={directory / CSV}")
        accept = shlex.quote(f"prepare.accept={json.dumps(sorted({*known, *counts}))}")
        leave_out = f"leave the images out with --set {exclude}, or " if _can_leave_out(directory, counts) else ""
        raise InputError(
            f"{directory / CSV}: found {listed}, expected none with --strict; fix: {leave_out}accept them with --set "
            f"{accept}"
        )


def _can_leave_out(directory: Path, kinds: Container[str]) -> bool:
    """Return whether `prepare.exclude` removes a finding: test images stay, also those of a made test split."""
    with (directory / CSV).open(newline="", encoding="utf-8") as file:
        return any(
            line["finding"] in kinds and line["role"] == "train" and line["split"] != "test"
            for line in csv.DictReader(file)
        )
