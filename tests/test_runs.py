"""Run folders: private, in a work folder that not everybody may write, and in the order of their creation."""

import ctypes
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from jobs.errors import InputError
from jobs.run_dir import RunDir, Work
from pipelines import runs
from pipelines.config import Config, compose
from pipelines.slurm.jobs import SlurmJobs, submitted_run


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path / "work")


@pytest.fixture
def config() -> Config:
    return compose("fast", {"fetch.data": "/data", "fetch.dataset": "data"}, ())


# --- permissions


@pytest.mark.parametrize(
    "folder",
    [
        "archives", "archives/mnist", "datasets/0123456789abcdef", "segments", "segments/0123456789abcdef", ".locks",
        "mlflow", "retrain", "sweeps", ".removed",
    ],
)  # fmt: skip
def test_any_folder_of_the_work_directory_that_everybody_may_write_is_refused(work: Work, folder: str) -> None:
    runs.make(work, "r")
    (work.path / folder).mkdir(parents=True)
    (work.path / folder).chmod(0o777)
    with pytest.raises(InputError, match=rf"{folder}: found mode 0777, writable by everyone.* fix: chmod -R o-w "):
        runs.make(work, "r")


def test_folders_that_other_users_keep_private_are_accepted(work: Work) -> None:
    runs.make(work, "r")
    for folder in (work.registry, work.retrains, work.archives):
        folder.mkdir(mode=0)
    runs.make(work, "r")


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o2770])
def test_the_folder_of_an_existing_run_is_made_private(work: Work, mode: int) -> None:
    run = runs.make(work, "r")
    run.path.chmod(mode)
    runs.make(work, "r")
    assert run.path.stat().st_mode & 0o7777 == mode & 0o7700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder away")
def test_another_users_run_that_cannot_be_made_private_is_refused(work: Work) -> None:
    run = runs.make(work, "r")
    run.path.chmod(0o770)
    os.chown(run.path, 65534, 0)
    program = (
        "import sys; from pathlib import Path; from jobs.run_dir import Work; from pipelines import runs\n"
        "from jobs.errors import InputError\n"
        "try: runs.make(Work(Path(sys.argv[1])), 'r')\n"
        "except InputError as error: print(error)"
    )

    def drop_cap_fowner() -> None:
        ctypes.CDLL(None).prctl(24, 3, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_FOWNER

    command = [sys.executable, "-c", program, str(work.path)]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=drop_cap_fowner, check=True)
    assert done.stdout == (
        f"{run.path}: found mode 0770 and another owner, expected 0700 and you; fix: give another --run-id\n"
    )


# --- the newest run


def make(work: Work, config: Config, run_id: str) -> RunDir:
    run = runs.make(work, run_id)
    runs.freeze(run, config)
    return run


def set_clock_back(*files: Path) -> None:
    """Date files one hour ahead, as if the clock had been set back since."""
    for file in files:
        status = file.stat()
        os.utime(file, (status.st_atime + 3600, status.st_mtime + 3600))


def test_the_latest_run_is_the_one_made_last_even_if_the_clock_was_set_back(work: Work, config: Config) -> None:
    first = make(work, config, "20260102-020000-fast-aaaa")
    set_clock_back(first.config_file)
    for run_id in ("20260102-010000-fast-bbbb", "20260102-010001-fast-aaaa", "20260102-000000-fast-cccc"):
        made = make(work, config, run_id)
        assert runs.latest(work) == made
    assert runs.written(first.config_file) > time.time_ns()


def test_the_run_submitted_last_is_found_even_if_the_clock_was_set_back(work: Work, config: Config) -> None:
    first, second = (SlurmJobs(make(work, config, run_id)) for run_id in ("b", "a"))
    for jobs in (first, second):
        jobs.folder.mkdir()
        jobs.write_jobs({"prepare": "1"})
    assert submitted_run(None, work) == second
    set_clock_back(second.jobs_file)
    first.write_jobs({"prepare": "2"})
    assert submitted_run(None, work) == first


def test_a_newer_run_that_another_user_keeps_private_is_passed_over(config: Config) -> None:
    with tempfile.TemporaryDirectory() as folder:  # others may not enter tmp_path
        Path(folder).chmod(0o755)
        own, private = (make(Work(Path(folder) / "work"), config, run_id) for run_id in ("own", "private"))
        for run in (own, private):
            SlurmJobs(run).folder.mkdir()
            SlurmJobs(run).write_jobs({"prepare": "1"})
        root = os.geteuid() == 0  # root may read every folder, so the test becomes nobody for a moment
        for path in (own.path, *own.path.rglob("*")) if root else ():
            os.chown(path, 65534, 65534)
        if root:
            os.seteuid(65534)
        else:
            private.path.chmod(0)
        try:
            assert runs.latest(own.work) == own
            assert submitted_run(None, own.work) == SlurmJobs(own)
        finally:
            if root:
                os.seteuid(0)
            private.path.chmod(0o700)


def test_without_a_config_there_is_no_latest_run(work: Work) -> None:
    assert runs.latest(work) is None
    runs.make(work, "r")  # it has no config yet
    (work.runs / "a-file").touch()
    assert runs.latest(work) is None
