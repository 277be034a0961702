"""Archives in the user's folder, which are used in place and never changed."""

import logging
from pathlib import Path

from jobs.archive import ROLES, Role
from jobs.errors import InputError
from jobs.fetch.catalog import KnownDataSet
from jobs.fetch.identify import identify, is_checkable, mismatch
from jobs.fetch.names import find, missing, unreadable

log = logging.getLogger("idxtrain")


def from_folder(folder: Path, data_set: KnownDataSet | None, has_tagged: bool = False) -> dict[Role, Path]:
    """Return the archives in a folder by role; raise InputError if they cannot be used.

    All four must be present, with two exceptions. `has_tagged`: the folder has tagged training pairs, so the untagged
    pair may be missing. `data_set`, of the catalog: archives may be missing if checksums confirm the present ones.
    """
    archives = find(folder)
    confirmed = [data_set is not None and _check(path, data_set, role) for role, path in archives.items()]
    lacking = [role for role in ROLES if role not in archives]
    if has_tagged and lacking == [role for role in ROLES if role.startswith("train")]:
        return archives
    # A folder without any archive is a mistake: ignoring it would train on other data.
    if lacking and not (archives and all(confirmed)):
        raise missing(folder, lacking)
    return archives


def _check(path: Path, data_set: KnownDataSet, role: Role) -> bool:
    """Return whether a checksum confirms that a file is the data set's; raise InputError if one refutes it."""
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
        log.warning(
            "%s: not checked: the catalog knows only the checksum of %s of %s", path, archive.gz_name, data_set.name
        )
        return False
    hint = f"; it is {identity[0]}'s {identity[1]}" if identity else ""
    raise InputError(
        f"{path}: {problem} ({data_set.name}'s {archive.name}){hint}; "
        "fix: replace the file, or give your data set's own name as --dataset"
    )
