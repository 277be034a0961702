"""Class values, as a source has them, become the integer labels of an archive."""

import re
from array import array
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from jobs.errors import InputError, printable

Value = int | str  # what a source calls a class

_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,9})")  # "007" and "+7" are names: as numbers they would not come back
_INT32 = np.iinfo(np.int32)


class ClassColumn:
    """The class of each staged image, stored as a code, for classes are few and images many."""

    def __init__(self) -> None:
        self._codes: dict[Value, int] = {}
        self._column = array("i")

    def append(self, value: Value) -> None:
        """Append the class of the next image."""
        self._column.append(self._codes.setdefault(value, len(self._codes)))

    def extend(self, values: Sequence[Value]) -> None:
        """Append the classes of the next images."""
        for value in values:
            self.append(value)

    def encode(self, name: str) -> tuple[NDArray[np.int64], dict[int, str]]:
        """Return the label of each image, and the name of each label; no names if the classes are integers.

        Classes that are all integers, or text that is a plain integer, are the labels themselves. Any others are
        numbered from 0 in the order of their text. Raises InputError for an integer beyond 32 bits.
        """
        labels = label_of(list(self._codes), name)
        by_code = np.array([labels[value] for value in self._codes], np.int64)
        names = {} if _are_integers(list(self._codes)) else {label: str(value) for value, label in labels.items()}
        column = np.frombuffer(self._column, np.int32) if self._column else np.empty(0, np.int32)
        return by_code[column] if len(by_code) else np.empty(0, np.int64), dict(sorted(names.items()))


def label_of(values: Sequence[Value], name: str) -> Mapping[Value, int]:
    """Return the label of each class value. `name`: what errors call the source."""
    if not _are_integers(values):
        return {value: label for label, value in enumerate(sorted(values, key=str))}
    labels = {value: int(value) for value in values}
    for value, label in labels.items():
        if not _INT32.min <= label <= _INT32.max:
            raise InputError(
                f"{name}: found the class {printable(str(value))}, expected an integer of at most 32 bits or text; "
                "fix: choose another label column with --label, or renumber the classes"
            )
    return labels


def _are_integers(values: Sequence[Value]) -> bool:
    return all(isinstance(value, int) or _INTEGER.fullmatch(value) for value in values)
