"""python -m jobs.fetch.test_pair EVALUATION_DIR: find the pair of archives to evaluate a finished run's model on.

Nothing else has to be in the folder.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from jobs.archive import TEST, Archive, Kind, Role, role_for
from jobs.errors import InputError
from jobs.fetch.candidates import Candidate, candidates
from jobs.fetch.catalog import CATALOG
from jobs.fetch.check import check
from jobs.fetch.class_names import read_class_names
from jobs.fetch.config import FetchConfig, require_on_disk
from jobs.fetch.data_set import FILE, DataSet, read_data_set
from jobs.fetch.describe import describe
from jobs.fetch.found import log_one_hot
from jobs.fetch.identify import record
from jobs.fetch.locate import Located, named_by, require_file
from jobs.fetch.pictures import picture_lists
from jobs.label_options import LabelOptions, label_options
from jobs.logs import log
from jobs.records import FetchOutputs
from jobs.run_dir import RunDir
from jobs.stage import run_as_process, stage_key, write_record

_SHOWN = 6  # files that an error lists
_KINDS: tuple[Kind, ...] = ("images", "labels")


def main(run: RunDir) -> None:
    """Find the pair, `run` being the evaluation's folder, and record it as the fetch stage does."""
    key = stage_key(run, "fetch")
    outputs = fetch_test_pair(run.section("fetch", FetchConfig), label_options(run).column)
    for role, archive in outputs.archives.items():
        log.info("fetch: %s: %s", role, archive.path)
    write_record(run, "fetch", key, outputs.model_dump(mode="json"), [])


def fetch_test_pair(config: FetchConfig, label_column: int | None = None) -> FetchOutputs:
    """Return the test pair that a config names or that is in its folder, and what is known of it.

    `label_column`: as the option says.

    Archives that options or `data.toml` name come first. Otherwise the files whose names call them test archives, those
    whose names do not say, or all files must be one pair. Raises InputError if they are not.
    """
    require_on_disk(config.data)
    folder = Path(config.data) if config.data else None
    own = read_data_set(folder / FILE) if folder and (folder / FILE).is_file() else None
    given: dict[Role, Path] = {role: path for role, path in config.named_archives.items() if role in TEST}
    for role, path in given.items():
        require_file(f"--{role.replace('_', '-')}", path)
    paths = named_by(folder, own, TEST) | given
    if folder and len(paths) < len(TEST):
        paths = _in_folder(folder, paths) | paths
    for role in TEST:
        if role not in paths:
            option = f"--{role.replace('_', '-')}"
            raise InputError(f"{option}: found none, expected both archives of a pair; fix: add {option} F")
    archives = {role: record(role, paths[role])[0] for role in TEST}
    located = Located(
        archives=dict(paths.items()),
        data_set=CATALOG.get(config.dataset) or _known_by_checksum(archives),
        own=own,
        class_names=read_class_names(Path(config.class_names)) if config.class_names else {},
        lacking=(),
    )
    options = LabelOptions(label_column, "count")  # which classes are unseen, the model decides
    checked = check(located, located.archives, options)
    log_one_hot(checked.headers, checked.label_column)
    description = describe(located, {}, checked.label_column)
    pictures = picture_lists(dict(archives.items()), {key: header.rows for key, header in checked.headers.items()})
    return FetchOutputs(
        archives=dict(archives.items()), description=description.model_copy(update={"pictures": pictures})
    )


def _in_folder(folder: Path, named: Mapping[Role, Path]) -> dict[Role, Path]:
    """Return the test pair of a folder. Raises InputError unless exactly one file of each kind can be it."""
    files = candidates(folder, set(named.values()))
    wanted = [kind for kind in _KINDS if role_for("test", kind) not in named]
    for options in (
        [each for each in files if each.split == "test"],
        [each for each in files if each.split is None],
        files,  # a pair that is named after training, alone
    ):
        pair = {role_for("test", kind): _only(options, kind) for kind in wanted}
        if all(pair.values()):
            return {role: path for role, path in pair.items() if path}
    listing = ", ".join(map(str, files[:_SHOWN])) + (f" and {len(files) - _SHOWN} more" if files[_SHOWN:] else "")
    raise InputError(
        f"{folder}: found {listing or 'no archive'}, expected one pair of images and labels to evaluate on; "
        "fix: name it by --test-images F --test-labels F"
    )


def _only(files: Sequence[Candidate], kind: Kind) -> Path | None:
    paths = [each.path for each in files if each.kind == kind]
    return paths[0] if len(paths) == 1 else None


def _known_by_checksum(archives: Mapping[Role, Archive]) -> DataSet | None:
    """Return the data set of the catalog that both archives are of, or None."""
    names = {each.known for each in archives.values()}
    name = next(iter(names)) if len(names) == 1 else None
    return CATALOG[name] if name else None


if __name__ == "__main__":
    run_as_process("fetch", main)
