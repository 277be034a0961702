"""The training log `logs/train.jsonl`: one JSON line per measurement, written by rank 0.

A line has `kind` ("train" or "validation"), `step` (updates done, an int), `time` (Unix seconds) and its figures,
e.g. `loss`. Those of "train" also have `steps` (of the whole training) and `seconds_left` (an estimate).
A killed process may leave a torn last line. Readers skip every line that is not a measurement.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TextIO

Kind = Literal["train", "validation"]


def append(file: TextIO, kind: Kind, step: int, **values: float | None) -> None:
    """Write one measurement after `step` updates and flush it, so that a kill loses no earlier line."""
    file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
    file.flush()


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the measurements of a training log in the order of its lines; none if the file is missing.

    Each has a `kind` and an integer `step`; other values may be anything that JSON can hold, NaN included.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict) and isinstance(entry.get("kind"), str) and type(entry.get("step")) is int:
            yield entry


def truncate(path: Path, step: int) -> None:
    """Keep only the measurements up to `step`: a training that resumes there measures the later steps again."""
    if path.exists():
        kept = [json.dumps(entry) + "\n" for entry in read(path) if entry["step"] <= step]
        path.write_text("".join(kept), encoding="utf-8")
