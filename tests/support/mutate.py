"""A seeded mutator of files: bad disks, torn copies, slips in an editor, malicious senders.

The same random generator gives the same mutant, so the number of a case suffices to reproduce it.
"""

import json
import math
import resource
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, TypeVar

import psutil
import pytest

from jobs.errors import InputError

T = TypeVar("T")

_SIZES = (0, 1, 2, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1)

# JSON that no Python value produces: these strings are replaced after writing.
_RAW = {
    "@beyond float@": "1e999",
    "@beyond the digits int() takes@": "9" * 5000,
    "@deep@": "[" * 60 + "]" * 60,
    "@deeper@": '{"a":' * 400 + "1" + "}" * 400,
    "@nearly too deep for Python@": "[" * 900 + "]" * 900,
    "@too deep for Python@": "[" * 100_000 + "]" * 100_000,
}
_TRAVERSALS = ("../../etc/passwd", "train/../../../etc/part-00000.parquet", "/etc/passwd", "train/part-00000.parquet\n")
_TEXTS = ("", "0", "1", "1e3", "true", "nan", "none", "two\nlines\x1b[31m", "\u2028\u202e", "\ud800", "\0", "é" * 3000)
_NUMBERS = (0, 1, -1, 2, 2**31, 2**63, 10**30, -(10**400), 0.5, -0.0, 1e300, math.nan, math.inf)
_ODD: tuple[Any, ...] = (None, True, False, [], {}, [[]], *_NUMBERS, *_TEXTS, *_TRAVERSALS, *_RAW)

_ODD_TOML = (
    "true", "-1", "0", "1e400", "nan", "-inf", "1.5", "''", '"\\u0000"', '"a\\nb\\u001b[0m"', "1979-05-27T07:32:00Z",
    "0x" + "f" * 5000, "9" * 5000, "[]", "[1, 'a']", "{}", "{a = 1}", "[" * 60 + "]" * 60, "[" * 900 + "]" * 900,
    "[" * 100_000, "{a = " * 900 + "1" + "}" * 900, "'" + "x" * 5000 + "'", "'../../etc/passwd'",
)  # fmt: skip
_ODD_TOML_LINES = (
    "[train", "[train]", "[[train]]", "[train.model]", "[about.x]", "recipe = 5", "seed = -1", "[fetch]\nmirrors = [1]",
    '"two\\nlines" = 1', "'' = 1", "a.b.c = 1", "\x00", "[spark.properties]\nx = 1", "[launch]\nnp = 2", "# \ud7ff",
)  # fmt: skip


def mutate_bytes(data: bytes, random: Random) -> bytes:
    """Return the data with one change, or a few."""
    for _ in range(random.choice((1, 1, 1, 2, 5))):
        data = random.choice(_ON_BYTES)(data, random)
    return data


def _range(data: bytes, random: Random) -> tuple[int, int]:
    """Return start and stop of a range of the data, more often a small one."""
    start = random.randrange(len(data) + 1)
    return start, min(len(data), start + int(2 ** random.uniform(0, 10)))


def _flip(data: bytes, random: Random) -> bytes:
    at = random.randrange(len(data) or 1)
    return data[:at] + bytes(byte ^ 1 << random.randrange(8) for byte in data[at : at + 1]) + data[at + 1 :]


def _truncate(data: bytes, random: Random) -> bytes:
    return data[: random.randrange(len(data) + 1)]


def _insert(data: bytes, random: Random) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + random.randbytes(random.choice((1, 2, 4, 100))) + data[at:]


def _append(data: bytes, random: Random) -> bytes:
    return data + random.choice((b"\0", bytes(512), b"\n", data, random.randbytes(8)))


def _duplicate(data: bytes, random: Random) -> bytes:
    start, stop = _range(data, random)
    return data[:stop] + data[start:]


def _remove(data: bytes, random: Random) -> bytes:
    start, stop = _range(data, random)
    return data[:start] + data[stop:]


def _zero(data: bytes, random: Random) -> bytes:
    start, stop = _range(data, random)
    return data[:start] + bytes(stop - start) + data[stop:]


def _swap(data: bytes, random: Random) -> bytes:
    a, b, c = sorted(random.randrange(len(data) + 1) for _ in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def _size_field(data: bytes, random: Random) -> bytes:
    """Overwrite a few bytes near the start, where formats have their sizes."""
    at = random.choice((0, 2, 3, *range(4, 24, 4), random.randrange(len(data) + 1)))
    form = random.choice((">I", "<I", "<Q", "B"))
    field = struct.pack(form, random.choice(_SIZES) % 256 ** struct.calcsize(form))
    return data[:at] + field + data[at + len(field) :]


_Change = Callable[[bytes, Random], bytes]
_ON_BYTES: tuple[_Change, ...] = (
    _flip, _flip, _truncate, _insert, _append, _duplicate, _remove, _zero, _swap, _size_field, _size_field,
)  # fmt: skip


def mutate_json(value: Any, random: Random) -> bytes:
    """Return a JSON document with some of its values changed, or some of its bytes."""
    if random.random() < 0.3:
        return mutate_bytes(json.dumps(value, indent=2).encode(), random)
    return dump(mutate_value(value, random), random)


def dump(value: Any, random: Random) -> bytes:
    """Return a document as JSON, in one of several notations."""
    text = json.dumps(value, indent=random.choice((None, 2)), ensure_ascii=random.random() < 0.7)
    for token, raw in _RAW.items():
        text = text.replace(json.dumps(token), raw)
    return text.encode("utf-8", "surrogatepass")


def mutate_value(value: Any, random: Random) -> Any:
    """Return a copy of a JSON object in which one value or key is changed, or a few are."""
    value = json.loads(json.dumps(value))
    for _ in range(random.choice((1, 1, 1, 2, 5))):
        places = list(_places(value))
        if places:
            container, key = random.choice(places)
            _change_at(container, key, random, places)
    return value


def _places(value: Any) -> Any:
    """Yield (container, key) of everything inside."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])


def _change_at(container: Any, key: Any, random: Random, places: list[tuple[Any, Any]]) -> None:
    change = random.randrange(7)
    if change == 0:
        del container[key]
    elif change == 1 and isinstance(container, list):
        container.insert(random.randrange(len(container) + 1), container[key])
    elif change == 1:  # an extra key, or the same value under another key
        container[random.choice((*_TEXTS, *_TRAVERSALS, f"{key}x", "sha256"))] = random.choice((container[key], 1))
    elif change == 2:
        other, name = random.choice(places)
        container[key] = json.loads(json.dumps(other[name])) if _has(other, name) else None
    elif change == 3:
        container[key] = random.choice(([container[key]], {"a": container[key]}, str(container[key])))
    elif change in (4, 5):
        container[key] = _nudge(container[key], random)
    else:
        a_number = isinstance(container[key], int | float) and random.random() < 0.5
        container[key] = random.choice(_NUMBERS if a_number else _ODD)


def _has(container: Any, key: Any) -> bool:
    return key in container if isinstance(container, dict) else key < len(container)


def _nudge(value: Any, random: Random) -> Any:
    """Return a slightly different value of the same type, which no type check finds."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return random.choice(
            (value + 1, value - 1, -value, value * 10, value // 2, value * 0.5 if abs(value) < 2**64 else 0.5)
        )
    if isinstance(value, list):
        return random.choice((value[::-1], value[1:], value * 2))
    if isinstance(value, str) and value:
        at = random.randrange(len(value))
        return value[:at] + random.choice("0af./_\n") + value[at + random.randrange(2) :]
    return random.choice(_ODD)


def mutate_toml(text: str, random: Random) -> bytes:
    """Return a TOML document with some of its lines changed, or some of its bytes."""
    if random.random() < 0.3:
        return mutate_bytes(text.encode(), random)
    lines = text.splitlines()
    for _ in range(random.choice((1, 1, 1, 2, 5))):
        at = random.randrange(len(lines) or 1)
        key, equals, value = (lines[at] if lines else "").partition(" = ")
        odd = random.choice((value, random.choice(_ODD_TOML)))
        lines[at : at + 1] = random.choice(
            ([], [lines[at]] * 2 if lines else [], [key + "x" + equals + value], [random.choice(_ODD_TOML_LINES)],
             *[[key + equals + random.choice(_ODD_TOML)]] * 3, [f"{key}.b{equals}{odd}"])
        )  # fmt: skip
    return "\n".join(lines).encode()


# --- running many of them

CASES = {
    "archive": 2000, "gzip archive": 1500, "manifest": 1200, "sealed manifest": 800, "config": 1500, "recipe": 1000,
    "record": 1000, "checkpoint": 600, "shard": 400,
}  # fmt: skip
BLOCKS = 4
in_blocks = pytest.mark.parametrize("block", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, BLOCKS))])


def random_of(case: str) -> Random:
    """Return the random generator of a case, seeded by its name."""
    return Random(case)  # noqa: S311


def check_each(kind: str, block: int, check: Callable[[Random], bool]) -> None:
    """Run one block of the cases of a kind. `check`: returns whether the mutant was accepted."""
    count, accepted = CASES[kind] // BLOCKS, 0
    with bounded_memory():
        for number in range(block * count, (block + 1) * count):
            try:
                accepted += check(random_of(f"{kind} {number}"))
            except Exception as error:
                error.add_note(f"{kind}: case {number}")
                raise
    assert 0 < accepted < count  # a mutator that breaks everything, or nothing, tests little


@contextmanager
def bounded_memory(more: int = 1 << 30) -> Iterator[None]:
    """Make an allocation beyond the needs of these small files fail with MemoryError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def outcome(call: Callable[[], T]) -> T | None:
    """Return the result of a call; None if it raises an InputError, which must be one line."""
    try:
        return call()
    except InputError as error:
        text = str(error)
        assert text.isprintable(), ascii(text)
        assert 20 < len(text) < 3000, f"{len(text)} characters"
        return None
