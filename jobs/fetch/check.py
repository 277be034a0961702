"""The headers of located archives, checked as `prepare` checks them: `plan`, `run` and `fetch` give one message."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.errors import InputError
from jobs.fetch.identify import identify

if TYPE_CHECKING:
    from jobs.prepare.idx import Header


def read_headers(paths: Mapping[str, Path], label_column: int = 0) -> "dict[str, Header]":
    """Return the headers of archives by key; see `jobs.archive_headers.read_headers`.

    An error of an archive of the catalog ends with the catalog's hint for it, if there is one.
    """
    from jobs import archive_headers  # imports NumPy

    try:
        return archive_headers.read_headers(paths, label_column)
    except InputError as error:
        for path in paths.values():
            identity = identify(path) if str(path) in str(error) else None
            if identity and identity.archive.hint:
                raise InputError(f"{str(error).partition('; fix: ')[0]}; fix: {identity.archive.hint}") from error
        raise
