"""Findings in the words of the archives: which row of which file, which label."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from jobs.dataset import SPLITS, Manifest
from jobs.places import Place, Places
from jobs.prepare.findings.finding import Finding
from jobs.prepare.findings.pairs import PairFinding
from jobs.prepare.findings.rows import Rows


def describe(directory: Path, manifest: Manifest, rows: Rows, found: Iterable[PairFinding]) -> Iterator[Finding]:
    """Yield each finding of a row as a line of findings.csv."""
    places = Places(directory, manifest)

    def place(row: int) -> Place:
        return places.of(SPLITS[int(rows.split[row])], int(rows.sketch.indices[row]))

    def label(row: int) -> str:
        return manifest.class_text(int(rows.sketch.labels[row]))

    def finding(each: PairFinding) -> Finding:
        here, number = place(each.row), int(rows.sketch.labels[each.row])
        other = place(each.other) if each.other >= 0 else None
        return Finding(
            role=here.role,
            tag=here.tag,
            row=here.row,
            split=SPLITS[int(rows.split[each.row])],
            finding=each.kind,
            label=manifest.labels[number],
            name=manifest.class_names[number],
            detail=_detail(each, rows, label(each.other) if other else ""),
            other_role=other.role if other else "",
            other_row=other.row if other else "",
            other_tag=other.tag if other else "",
            archive=here.archive,
            other_archive=other.archive if other else "",
            other_label=label(each.other) if other else "",
            picture=here.picture,
            other_picture=other.picture if other else "",
        )

    return (finding(each) for each in found)


def measure(each: PairFinding, rows: Rows) -> str:
    """Return how a finding was found, in a few words; empty if its kind says it."""
    if each.kind == "outlier":
        return f"{each.distance:.2f} × the limit"
    if each.kind == "constant":
        return f"every value is {float(rows.sketch.lows[each.row]):.4f}"
    if each.kind == "near-constant":
        return f"spread {each.distance:.4f}"
    return f"distance {each.distance:.4f}" if each.kind in ("near-duplicate", "near-conflict") else ""


def _detail(each: PairFinding, rows: Rows, other: str) -> str:
    how = measure(each, rows) or "same pixels"
    return f"{how}, other label {other}" if each.kind in ("conflict", "near-conflict") else how
