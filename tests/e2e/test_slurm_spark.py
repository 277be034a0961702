"""Prepare on a Spark of the job's own, on a real Slurm of two nodes: the same dataset, and nothing left behind."""

import re
import stat
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs.run_dir import RunDir
from jobs.stage import read_record
from tests.conftest import Idxtrain, idxtrain_in
from tests.support.prepared import Made, parquet_bytes
from tests.support.slurm_cluster import SlurmCluster

SITE = """\
spark = "standalone"
scratch = "{scratch}"

[prepare]
nodes = 2
cpus = 1
memory = "1500M"
"""


class Place:
    """A work directory and a site of two nodes; of each run the prepare job is submitted, and no other wanted."""

    def __init__(self, folder: Path, slurm: SlurmCluster, idxtrain: Idxtrain, archives: Path) -> None:
        self.slurm, self.scratch, self._work = slurm, folder / "scratch", folder / "work"
        self.scratch.mkdir()
        (folder / "two.toml").write_text(SITE.format(scratch=self.scratch), encoding="utf-8")
        self._options = ("--site", folder / "two.toml", "--data", archives, "--work", self._work)
        self._idxtrain = idxtrain

    def submit(self, run_id: str, rows_per_shard: int) -> str:
        """Submit a run; return the ID of its prepare job."""
        shards = f"--set=prepare.rows_per_shard={rows_per_shard}"
        done = self._idxtrain(
            "submit", *self._options, "--run-id", run_id, shards, "--recipe", "softmax", env=self.slurm.environment
        )
        assert done.returncode == 0, done.stderr
        jobs = dict(line.split() for line in done.stdout.splitlines())
        self.slurm.run("scancel", jobs["train"], jobs["evaluate"], check=True)
        return jobs["prepare"]

    def run(self, run_id: str) -> RunDir:
        return RunDir(self._work / "runs" / run_id)

    def said(self, run_id: str) -> str:
        return "".join(path.read_text(encoding="utf-8") for path in self.run(run_id).slurm.glob("prepare-*.out"))

    def processes(self, job: str) -> list[psutil.Process]:
        """Return all processes of a job that are there, whoever started them."""
        found = []
        for process in psutil.process_iter():
            environment = _asked(process.environ) or {}
            if environment.get("SLURM_JOB_ID") == job and environment.get("IDXTRAIN_SCRATCH") == str(self.scratch):
                found.append(process)
        return found

    def wait_for_workers(self, run_id: str, job: str) -> None:
        self.slurm.wait_for(
            lambda: "workers are up" in self.said(run_id) or self.slurm.state(job) not in ("PENDING", "RUNNING")
        )
        assert "prepare: Spark's master and 2 workers are up: n1, n2\n" in self.said(run_id)


def _asked(question: Any) -> Any:
    try:
        return question()
    except psutil.Error:
        return None


@pytest.fixture(scope="module")
def place(slurm: SlurmCluster, small: Made, tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("spark-on-slurm")
    return Place(folder, slurm, idxtrain_in(folder), small.archives["train_images"].path.parent)


def test_two_workers_make_the_same_dataset_as_one_machine(place: Place, small: Made) -> None:
    assert small.config.rows_per_shard
    job = place.submit("same", small.config.rows_per_shard)
    place.slurm.wait_for_end(job)
    said = place.said("same")
    assert place.slurm.state(job) == "COMPLETED", said
    directory = Path(read_record(place.run("same"), "prepare").outputs["dataset"])
    assert directory.name == small.directory.name
    assert parquet_bytes(directory) == parquet_bytes(small.directory)
    # One line of Spark's own, how far it was, and else what prepare says on one machine.
    lines = [line for line in said.splitlines() if not re.search(r"^fetch: |\d+ of \d+ Spark tasks$", line)]
    assert lines == ["prepare: Spark's master and 2 workers are up: n1, n2", *small.log.splitlines()[-1:]]
    assert place.processes(job) == []
    assert list(place.scratch.iterdir()) == []


def test_it_is_private_and_a_cancelled_job_leaves_nothing(place: Place) -> None:
    job = place.submit("cancelled", 50)
    place.wait_for_workers("cancelled", job)
    found = place.processes(job)
    javas = [process for process in found if process.name() == "java"]
    assert len(javas) >= 3, "a master and two workers"
    conf = sorted(place.scratch.glob("idxtrain-job-*/spark-defaults.conf"))
    assert len(conf) == 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in conf} == {0o600}
    (secret,) = {match[1] for path in conf if (match := re.search(r"secret (\w{64})\n", path.read_text()))}
    for process in found:
        assert secret not in str(_asked(process.cmdline))
        if process.name() not in ("srun", "slurmstepd"):  # what these do is Slurm's own affair
            listening = [c.laddr.ip for c in _asked(process.net_connections) or () if c.status == psutil.CONN_LISTEN]
            assert {address.removeprefix("::ffff:") for address in listening} <= {"127.0.0.1"}, process.name()
    place.slurm.run("scancel", job, check=True)
    place.slurm.wait_for_end(job)
    place.slurm.wait_for(place.slurm.idle)
    assert place.processes(job) == []
    assert list(place.scratch.iterdir()) == []
    assert secret not in place.said("cancelled")
    assert not (place.run("cancelled").record_file("prepare")).exists()
    assert "Traceback" not in place.said("cancelled")


@pytest.mark.slow
def test_what_a_job_left_that_was_killed_outright_goes_with_the_next(place: Place) -> None:
    job = place.submit("killed", 40)
    place.wait_for_workers("killed", job)
    for process in place.processes(job):
        _asked(process.kill)
    place.slurm.wait_for_end(job)
    place.slurm.wait_for(lambda: place.processes(job) == [])
    assert len(list(place.scratch.iterdir())) >= 3
    again = place.submit("again", 40)
    place.slurm.wait_for_end(again)
    assert place.slurm.state(again) == "COMPLETED", place.said("again")
    assert list(place.scratch.iterdir()) == []
