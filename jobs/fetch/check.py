"""Check located archives as `prepare` does, by headers and small label archives: one message for all commands."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.archive import role_of_key
from jobs.errors import InputError
from jobs.fetch.identify import identify
from jobs.fetch.locate import Located
from jobs.label_options import Column, LabelOptions

if TYPE_CHECKING:
    from jobs.archive_labels import ArchiveLabels
    from jobs.prepare.idx import Header


@dataclass(frozen=True)
class Checked:
    """What archives hold. `headers`: by role, or role and tag. `labels`: None if they are too many, or not all here."""

    headers: "Mapping[str, Header]"
    label_column: Column
    labels: "ArchiveLabels | None"


def check(located: Located, paths: Mapping[str, Path], options: LabelOptions) -> Checked:
    """Return what located archives hold. Raises InputError unless they fit each other.

    `paths`: the located archives, and those that are now here of the catalog's. An error of an archive of the catalog
    ends with the catalog's hint for it, if there is one.
    """
    from jobs import archive_headers, archive_labels  # imports NumPy

    described = located.label_column if options.column is None else options.column
    try:
        headers = archive_headers.read_headers(paths, described or 0)
        column = archive_labels.column_in(paths, headers, described)
        is_whole = set(located.lacking) <= {role_of_key(key) for key in paths}
        is_small = is_whole and archive_labels.is_small(paths, headers)
        labels = archive_labels.read_labels(paths, column, options.unseen) if is_small else None
    except InputError as error:
        for path in paths.values():
            identity = identify(path) if str(path) in str(error) else None
            if identity and identity.archive.hint:
                raise InputError(f"{str(error).partition('; fix: ')[0]}; fix: {identity.archive.hint}") from error
        raise
    return Checked(headers, column, labels)
