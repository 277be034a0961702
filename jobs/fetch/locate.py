"""Find the archives that a config means, before anything is downloaded or read whole: for fetch, plan and retrain.

What says more comes first: options such as --train-images, `data.toml` in the folder, the catalog's names, the
customary names and tagged pairs, then words in names, checksums, headers and numbers of rows.
"""

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from jobs import segments
from jobs.archive import ROLES, TEST, TRAINING, Role
from jobs.config import nearest
from jobs.errors import InputError
from jobs.fetch.candidates import candidates, folder_with_archives
from jobs.fetch.catalog import CATALOG
from jobs.fetch.class_names import read_class_names
from jobs.fetch.config import FetchConfig
from jobs.fetch.data_set import FILE, DataSet, read_data_set
from jobs.fetch.identify import identify, is_checkable, mismatch
from jobs.fetch.names import files_in, find, missing, not_a_file, unreadable
from jobs.fetch.pairs import find_pairs
from jobs.fetch.roles import assign

log = logging.getLogger("idxtrain")


@dataclass(frozen=True, kw_only=True)
class Located:
    """The archives that are here, by role, or by role and tag (`jobs.segments`).

    `data_set`: of the catalog, if --dataset names one. `own`: what `data.toml` in the folder says. `class_names`: from
    the file of --classes, by label. `lacking`: roles that are to be obtained from the catalog's sources.
    """

    archives: Mapping[str, Path]
    data_set: DataSet | None
    own: DataSet | None
    class_names: Mapping[int, str]
    lacking: tuple[Role, ...]

    @property
    def label_column(self) -> int | None:
        """The column of the label in label archives of several columns, if `data.toml` or the catalog says it."""
        said = [each.label_column for each in (self.own, self.data_set) if each and each.says("label_column")]
        return said[0] if said else None


def locate(config: FetchConfig) -> Located:
    """Return the archives of a config that are in the user's folder or named by options.

    Raises InputError where they are missing, unclear, or not those of the catalog's data set.
    """
    data_set = CATALOG.get(config.dataset)
    folder = Path(config.data) if config.data else None
    given = config.named_archives
    for role, path in given.items():
        require_file(f"--{role.replace('_', '-')}", path)
    if data_set is None and folder is None and not given:
        near = nearest(config.dataset, CATALOG)
        raise InputError(
            f"--dataset: found {config.dataset}, expected one of {', '.join(CATALOG)}; fix: "
            f"{f'did you mean {near}? ' if near else ''}name one of these, or give the folder with your archives as "
            "--data"
        )
    own = _own_file(folder) if folder else None
    archives = _in_folder(folder, data_set, named_by(folder, own) | given, given) if folder else _keys(given)
    lacking = _lacking(archives)
    if data_set is not None and lacking == TEST and set(TRAINING) <= set(given):
        for role in TRAINING:  # the catalog's test pair belongs to the catalog's training pair alone
            _check(given[role], data_set, role)
    if data_set is None:
        _require_training(config, archives, lacking)
        lacking = ()
    elif not set(lacking) <= set(data_set.archives):
        raise InputError(
            f"--dataset {data_set.name}: found no training archives in it, expected some; fix: {data_set.how_to_get}"
        )
    if config.segments:
        archives = {key if key.startswith("test") or segments.MARK in key else segments.key(key, ""): path
                    for key, path in archives.items()}  # fmt: skip
    class_names = read_class_names(Path(config.class_names)) if config.class_names else {}
    return Located(archives=archives, data_set=data_set, own=own, class_names=class_names, lacking=lacking)


def fetched_before(located: Located, archives_dir: Path) -> dict[str, Path]:
    """Return the files in WORK/archives of the roles that are to be obtained. They are not checked here."""
    if located.data_set is None or not located.lacking:
        return {}
    folder = archives_dir / located.data_set.name
    files = dict(_with_names_of(folder, located.data_set)) if folder.is_dir() else {}
    return {role: files[role] for role in located.lacking if role in files}


def _keys(archives: Mapping[Role, Path]) -> dict[str, Path]:
    return {role: archives[role] for role in ROLES if role in archives}


def _lacking(archives: Iterable[str]) -> tuple[Role, ...]:
    """Return the roles that no archive has; a tagged training pair is one to train on."""
    present = {key.partition(segments.MARK)[0] for key in archives}
    return tuple(role for role in ROLES if role not in present)


def _require_training(config: FetchConfig, archives: Mapping[str, Path], lacking: tuple[Role, ...]) -> None:
    """Raise InputError unless archives of the user's own are a training pair, with or without a test pair."""
    if not lacking:
        return
    where = config.data or "--train-images"
    if lacking != TEST:
        names = ", ".join(f"--{role.replace('_', '-')}" for role in lacking)
        raise InputError(
            f"{where}: found no {', '.join(lacking)}, expected pairs of images and labels; fix: add {names}"
        )
    if config.segments:
        raise InputError(
            f"{where}: found no test pair, expected one that all trainings share; fix: add t10k-images-idx3-ubyte and "
            "t10k-labels-idx1-ubyte, or give --test-images F --test-labels F"
        )


def require_file(where: str, path: Path) -> None:
    """Raise InputError unless a path is a regular file. `where`: what names it, such as an option."""
    try:
        if not path.exists() and not path.is_symlink():
            raise InputError(f"{where} {path}: found no such file; fix: correct the path")
        if not path.is_file():
            raise not_a_file(path)
    except OSError as error:
        raise unreadable(path, error) from error


def _own_file(folder: Path) -> DataSet | None:
    path = folder / FILE
    return read_data_set(path) if path in files_in(folder) else None


def named_by(folder: Path | None, own: DataSet | None, roles: Collection[Role] = ROLES) -> dict[Role, Path]:
    """Return the archives of these roles that a folder's data.toml names, checked by the checksums that it gives."""
    if folder is None or own is None:
        return {}
    paths: dict[Role, Path] = {}
    for role, archive in own.archives.items():
        if role not in roles:
            continue
        path = next((p for p in (folder / archive.name, folder / archive.gz_name) if p.exists()), folder / archive.name)
        require_file(f"{folder / FILE}: archives.{role}.name:", path)
        problem = mismatch(path, archive) if archive.has_checksum or archive.shape else None
        if problem:
            raise InputError(f"{path}: {problem}; fix: replace the file, or correct {FILE}")
        paths[role] = path
    return paths


def _in_folder(
    folder: Path, data_set: DataSet | None, named: Mapping[Role, Path], given: Mapping[Role, Path]
) -> dict[str, Path]:
    """Return the archives of a folder by role, or by role and tag. `named`: those that options or data.toml name.

    All must be there, with exceptions: a tagged pair replaces the untagged training pair; archives of the catalog's
    data set may be missing if checksums confirm the present ones; a test pair may be missing if no file may be of
    it.
    """
    known = dict(_with_names_of(folder, data_set)) | dict(named) if data_set else dict(named)
    present = find(folder, given=known) | known
    checked = {role: path for role, path in present.items() if role not in given}
    confirmed = [data_set is not None and _check(path, data_set, role) for role, path in checked.items()]
    problem: InputError | None = None
    try:
        tagged = find_pairs(folder, set(present.values()))
    except InputError as error:
        tagged, problem = {}, error
    lacking = _lacking([*present, *tagged])
    if problem is None and (not lacking or (checked and all(confirmed))):
        return _with_tags(present, tagged)
    if problem is None and (len(tagged) > len(TRAINING) or (tagged and not set(TRAINING) & set(_lacking(present)))):
        used = {*present.values(), *tagged.values()}
        if data_set is None and lacking == TEST and not any(each.kind for each in candidates(folder, used)):
            return _with_tags(present, tagged)  # each pair gives test rows
        raise missing(folder, lacking)
    try:
        assigned = _by_words(folder, known, tagged, lacking)
    except InputError as error:
        raise problem or error from None
    if data_set:
        for role in assigned.keys() - present.keys():
            _check(assigned[role], data_set, role)
        if len(assigned) < len(ROLES):
            raise missing(folder, _lacking(assigned))
    return _with_tags(assigned, find_pairs(folder, set(assigned.values())))


def _by_words(
    folder: Path, known: Mapping[Role, Path], tagged: Mapping[str, Path], lacking: tuple[Role, ...]
) -> dict[Role, Path]:
    """Return the archives of a folder whose names are not the customary ones; raise InputError if that is unclear."""
    files = candidates(folder, set(known.values()))
    untagged = [each for each in files if each.path not in tagged.values()]
    has_test_beside = bool(tagged) and any(each.split == "test" for each in untagged)
    if not files:
        deeper = folder_with_archives(folder)
        if deeper is None:
            raise missing(folder, lacking)
        raise InputError(
            f"{folder}: found no archives, but some in {deeper.relative_to(folder)}; fix: give --data {deeper}"
        )
    return assign(folder, untagged if has_test_beside else files, known, is_trained_on_others=has_test_beside)


def _with_tags(archives: Mapping[Role, Path], tagged: Mapping[str, Path]) -> dict[str, Path]:
    """Return all archives by key: beside tagged pairs, the untagged training pair has the tag ''."""
    by_role = _keys(archives)
    if not tagged:
        return by_role
    return {
        **{role if role.startswith("test") else segments.key(role, ""): path for role, path in by_role.items()},
        **tagged,
    }


def _with_names_of(folder: Path, data_set: DataSet) -> list[tuple[Role, Path]]:
    """Return the archives in a folder that have the very names of a data set's."""
    files = {path.name: path for path in files_in(folder)}
    return [
        (role, files[name])
        for role, archive in data_set.archives.items()
        for name in (archive.gz_name, archive.name)  # of both, the plain one is used
        if name in files
    ]


def _check(path: Path, data_set: DataSet, role: Role) -> bool:
    """Return whether a checksum confirms that a file is the data set's; raise InputError if one refutes it."""
    archive = data_set.archives.get(role)
    if archive is None:
        return False
    try:
        checkable = is_checkable(path, archive)
        problem = mismatch(path, archive)
        identity = identify(path) if problem else None
    except OSError as error:
        raise unreadable(path, error) from error
    if not problem:
        return checkable
    if archive.has_checksum and not checkable and identity is None:
        log.warning(
            "%s: not checked: the catalog knows only the checksum of %s of %s", path, archive.gz_name, data_set.name
        )
        return False
    hint = f"; it is {identity}" if identity else ""
    raise InputError(
        f"{path}: {problem} ({data_set.name}'s {archive.name}){hint}; "
        "fix: replace the file, or give your data set's own name as --dataset"
    )
