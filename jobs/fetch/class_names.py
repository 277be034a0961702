"""The names of classes, from a text file of one line per class.

If most lines are `LABEL NAME` or `LABEL,NAME`, with an integer, all must be, each label once. Otherwise line i names
label i, from 0. A mapping file such as EMNIST's has character codes for names: `1 65 97` is `A/a`. Names that are
numbers, or begin with one, need the form `LABEL,NAME`.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jobs.errors import InputError

_LABELLED = re.compile(r"(-?\d{1,18})[ \t]*[ \t,;][ \t]*(\S.*)")
_CODES = re.compile(r"\d{1,7}([ \t]+\d{1,7})*")
_LONGEST = 100  # characters of a name: it becomes a cell of tables
_MOST_BYTES = 16 << 20
_SPACE = 32


def read_class_names(path: Path) -> dict[int, str]:
    """Return the names in a file by label. Raises InputError, naming the file and the line."""
    text = _read(path)
    lines = text.rstrip().splitlines()
    if not lines:
        raise InputError(f"{path}: found no class names, expected one line per class; fix: add them")
    matches = [_LABELLED.fullmatch(line.strip()) for line in lines]
    if sum(map(bool, matches)) <= len(lines) / 2:
        return by_label(enumerate(line.strip() for line in lines), str(path))
    labelled: list[tuple[str, str]] = []
    seen: dict[int, int] = {}
    for number, match in enumerate(matches, 1):
        before = seen.setdefault(int(match[1]), number) if match else None
        if match is None or before != number:
            found = f"label {match[1]} again, after line {before}" if match else repr(lines[number - 1][:_LONGEST])
            raise InputError(
                f"{path}: line {number}: found {found}, expected LABEL NAME with each label once, as most lines have a "
                "label; fix: correct it, or write LABEL,NAME in each line"
            )
        labelled.append((match[1], match[2].strip()))
    if not any("," in line or ";" in line for line in lines) and all(_are_codes(name) for _, name in labelled):
        labelled = [(label, "/".join(chr(int(code)) for code in name.split())) for label, name in labelled]
    return by_label(labelled, str(path))


def by_label(names: Iterable[tuple[Any, Any]], where: str) -> dict[int, str]:
    """Return class names by integer label. Raises InputError, naming `where`, for a name that is not fit for a table.

    `names`: label and name, in any form.
    """
    result: dict[int, str] = {}
    labels: dict[str, int] = {}
    for key, name in names:
        try:
            label = int(str(key))
        except ValueError:
            raise InputError(f"{where}: found label {str(key)!r}, expected an integer; fix: correct it") from None
        if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > _LONGEST:
            raise InputError(
                f"{where}: found {name!r} for label {label}, expected 1 to {_LONGEST} printable characters; fix: "
                "correct it"
            )
        if name in labels:
            raise InputError(
                f"{where}: found {name!r} for labels {labels[name]} and {label}, expected a name of its own for each; "
                "fix: correct it"
            )
        labels[name] = label
        result[label] = name
    return result


def _read(path: Path) -> str:
    try:
        if not path.is_file():
            raise InputError(f"{path}: found no such file, expected a text file of class names; fix: correct the path")
        if path.stat().st_size > _MOST_BYTES:
            raise InputError(f"{path}: found {path.stat().st_size} bytes, expected a short text file; fix: shorten it")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); fix: correct its permissions") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: found byte {error.start} that is not UTF-8; fix: save it as UTF-8") from error


def _are_codes(name: str) -> bool:
    """Return whether a name is a list of codes of visible characters."""
    return bool(_CODES.fullmatch(name)) and all(
        _SPACE < int(code) < 0x110000 and chr(int(code)).isprintable() for code in name.split()
    )


def names_text(names: Mapping[int, str], most: int = 12) -> str:
    """Return class names in one line, such as `0 = T-shirt/top, 1 = Trouser`; `…` for those after `most`."""
    shown = [f"{label} = {name}" for label, name in list(names.items())[:most]]
    return ", ".join([*shown, "…"] if len(names) > most else shown)
