"""The prepare stage: a dataset named by its ID, made once, which appears whole."""

import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from jobs import dataset, segments
from jobs.archive import Archive
from jobs.dataset_store import read_record
from jobs.description import Description
from jobs.errors import InputError
from jobs.files import sync
from jobs.lease import Lease
from jobs.logs import log
from jobs.prepare.config import PrepareConfig, SparkConfig
from jobs.prepare.findings.finding import require_none
from jobs.prepare.inputs import Inputs, check_options
from jobs.run_dir import Work

NOTHING_KNOWN = Description()


def dataset_id(config: PrepareConfig, archives: Mapping[str, Archive], description: Description = NOTHING_KNOWN) -> str:
    """Return the 16 hex digits that name the dataset of these inputs. Raises InputError for an unreadable file."""
    return Inputs(config, archives, description).dataset_id


def prepare(
    config: PrepareConfig,
    spark: SparkConfig,
    archives: Mapping[str, Archive],
    work: Work,
    description: Description = NOTHING_KNOWN,
) -> Path:
    """Make the dataset unless it exists, and return its directory. It appears whole, by one rename.

    With `prepare.strict`, raises InputError if the dataset has findings. It is kept, as is its list of findings.
    """
    directory = _make(config, spark, archives, work, description)
    if config.strict:
        require_none(directory, config.accept)
    return directory


def _make(
    config: PrepareConfig, spark: SparkConfig, archives: Mapping[str, Archive], work: Work, description: Description
) -> Path:
    inputs = Inputs(config, archives, description)
    check_options(config, archives)
    name = inputs.dataset_id
    directory = work.datasets / name
    work.locks.mkdir(mode=0o775, parents=True, exist_ok=True)
    # The check whether it exists needs the lease too: `idxtrain prune` removes a dataset only under its lease.
    with Lease(work.lease_file(f"dataset-{name}"), f"prepare: dataset {name}", waits=True):
        if _exists(directory):
            record = read_record(directory)
            log.info("prepare: dataset %s already exists%s", name, f", its shards at {record.place}" if record else "")
            return directory

        # These import Spark, Arrow and NumPy.
        from jobs.prepare.build import build
        from jobs.prepare.compose import build_of_segments

        if directory.exists():
            raise InputError(
                f"{directory}: found no {dataset.MANIFEST} in it; fix: remove {directory} to prepare it again"
            )
        work.datasets.mkdir(mode=0o775, parents=True, exist_ok=True)  # never writable by all, whatever the umask
        for abandoned in work.datasets.glob(f".tmp-{name}-*"):  # of a dead process, as this one holds the lease
            shutil.rmtree(abandoned)
        unfinished = work.datasets / f".tmp-{name}-{secrets.token_hex(4)}"
        unfinished.mkdir()
        try:
            if segments.tags(archives):
                build_of_segments(inputs, spark, unfinished, work)
            else:
                build(inputs, spark, unfinished)
            unfinished.rename(directory)
            sync(work.datasets)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return directory


def _exists(directory: Path) -> bool:
    try:
        if not (directory / dataset.MANIFEST).exists():
            return False
    except OSError as error:
        raise InputError(
            f"{directory}: cannot be read ({error.strerror}); fix: correct its permissions, or remove it to prepare it "
            "again"
        ) from error
    dataset.read_manifest(directory)
    return True
