"""Archives from a folder of the user's. They are used where they are and never changed."""

import logging
from pathlib import Path

from jobs.archive import ROLES, Role
from jobs.errors import InputError
from jobs.fetch.catalog import KnownDataSet
from jobs.fetch.identify import identify, is_checkable, mismatch
from jobs.fetch.names import find, missing, unreadable

log = logging.getLogger("idxtrain")


def from_folder(folder: Path, data_set: KnownDataSet | None, more: bool = False) -> dict[Role, Path]:
    """Return the archives in a folder; raise InputError where they cannot be used.

    Of a data set of the catalog some may be missing, as long as checksums say that the others are that very data set's.
    Of any other data set all four must be there; but no training pair where tagged ones are (`more`).
    """
    found = find(folder)
    checked = [data_set is not None and _check(path, data_set, role) for role, path in found.items()]
    lacking = [role for role in ROLES if role not in found]
    if more and lacking == [role for role in ROLES if role.startswith("train")]:
        return found
    # A folder with none at all is the wrong folder: to go on without it would train on something else.
    if lacking and not (found and all(checked)):
        raise missing(folder, lacking)
    return found


def _check(path: Path, data_set: KnownDataSet, role: Role) -> bool:
    """Tell whether a file is the data set's; raise InputError where it is not. False: no checksum says."""
    archive = data_set.archives[role]
    try:
        checkable = is_checkable(path, archive)
        problem = mismatch(path, archive)
        identity = identify(path) if problem else None
    except OSError as error:
        raise unreadable(path, error) from error
    if not problem:
        return True
    if not checkable and identity is None:
        log.warning("%s: not checked, only %s's checksum is known in %s", path, archive.gz_name, data_set.name)
        return False
    hint = f"it is {identity[0]}'s {identity[1]}; " if identity else ""
    raise InputError(
        f"{path}: {problem} ({data_set.name}'s {archive.name}); {hint}"
        "replace the file, or give the data set's own name as --dataset"
    )
