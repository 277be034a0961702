"""`idxtrain runs`: the runs as a table, newest first."""

import json
import re
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf

from jobs.errors import InputError
from jobs.text_table import text_table
from pipelines.history.sizes import size_of, size_text
from pipelines.history.summary import STATES, Summary

_HEADER = ("run", "recipe", "data", "seed", "state", "test", "validation", "size", "age")
_RIGHT = (3, 5, 6, 7, 8)
_KEYS = ("state", "recipe", "data", "seed")
_SECONDS = {"min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_AGE = re.compile(r"(\d+)\s*(min|h|d|w)")


@dataclass(frozen=True)
class Filter:
    """Which runs to list: all those that fit each condition.

    `values`: by key, any of these values. `newer_than`: seconds since the run was made, at most.
    """

    values: Mapping[str, Collection[str]]
    newer_than: float = inf

    def __call__(self, each: Summary) -> bool:
        """Return whether a run fits."""
        own = {"state": each.state, "recipe": each.recipe, "data": each.data, "seed": str(each.seed)}
        return time.time() - each.made <= self.newer_than and all(
            own[key] in these for key, these in self.values.items()
        )


def filter_of(only: Sequence[str], newer_than: str | None) -> Filter:
    """Return the filter of the options: "KEY=VALUE" each, and an age such as `90min`, `12h`, `7d` or `2w`.

    Raises InputError for another text.
    """
    values: dict[str, set[str]] = {}
    for text in only:
        key, equals, value = text.partition("=")
        if not equals or key not in _KEYS:
            raise InputError(f"--only {text}: found no known key, expected KEY=VALUE, KEY one of {', '.join(_KEYS)}")
        if key == "state" and value not in STATES:
            raise InputError(f"--only {text}: found no such state, expected {', '.join(STATES)}")
        values.setdefault(key, set()).add(value)
    if newer_than is None:
        return Filter(values)
    match = _AGE.fullmatch(newer_than.strip())
    if match is None:
        raise InputError(f"--newer-than {newer_than}: found no age, expected a number and min, h, d or w, e.g. 7d")
    return Filter(values, float(match[1]) * _SECONDS[match[2]])


def lines(summaries: Sequence[Summary]) -> list[str]:
    """Return the runs as a table, one line each."""
    return text_table(_HEADER, [_row(each) for each in summaries], right=_RIGHT)


def as_json(summaries: Iterable[Summary]) -> str:
    """Return the runs as a JSON list, for scripts. `made`: Unix seconds; `bytes`: of the run's folder."""
    rows = [
        {
            "run_id": each.run.run_id,
            "made": round(each.made),
            "state": each.state,
            "recipe": each.recipe,
            "data": each.data,
            "seed": each.seed,
            "stage": each.stage or None,
            "step": each.step or None,
            "test_accuracy": each.accuracy,
            "validation_accuracy": each.validation,
            "bytes": size_of(each.run.path),
        }
        for each in summaries
    ]
    return json.dumps(rows, indent=1)


def _row(each: Summary) -> tuple[str, ...]:
    return (
        each.run.run_id,
        each.recipe or "–",
        each.data or "–",
        "–" if each.seed is None else str(each.seed),
        state_text(each),
        "–" if each.accuracy is None else f"{each.accuracy:.4f}",
        "–" if each.validation is None else f"{each.validation:.4f}",
        size_text(size_of(each.run.path)),
        age_text(time.time() - each.made),
    )


def state_text(each: Summary) -> str:
    """Return a run's state, and where a run that has not finished is: `stopped in train at step 1,200`."""
    if each.state not in ("running", "queued", "stopped"):
        return each.state
    stage = f" in {each.stage}" if each.stage else ""
    return f"{each.state}{stage}{f' at step {each.step:,}' if each.step else ''}"


def age_text(seconds: float) -> str:
    """Return an age for people, in its largest unit: 40 s, 12 min, 3 h, 5 d."""
    seconds = max(0, int(seconds))
    if seconds < 60:
        return f"{seconds} s"
    unit = "min" if seconds < 3600 else "h" if seconds < 2 * 86400 else "d"
    return f"{seconds // _SECONDS[unit]} {unit}"
