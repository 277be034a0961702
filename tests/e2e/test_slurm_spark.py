"""Prepare on a Spark cluster inside the job, on a real Slurm of two nodes: the same dataset, and no leftovers."""

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

pytestmark = pytest.mark.long

SITE = """\
spark = "standalone"
scratch = "{scratch}"

[prepare]
nodes = 2
cpus = 1
memory = "1500M"
"""


class Workspace:
    """A work folder and a site of two nodes. Only the prepare job of each run is kept in the queue."""

    def __init__(self, folder: Path, slurm: SlurmCluster, idxtrain: Idxtrain, archives: Path) -> None:
        self.slurm, self.scratch, self._work = slurm, folder / "scratch", folder / "work"
        self.scratch.mkdir()
        (folder / "two.toml").write_text(SITE.format(scratch=self.scratch), encoding="utf-8")
        self._options = ("--site", folder / "two.toml", "--data", archives, "--work", self._work)
        self._idxtrain = idxtrain

    def submit(self, run_id: str, rows_per_shard: int, *options: str) -> str:
        """Submit a run; return the ID of its prepare job."""
        shards = f"--set=prepare.rows_per_shard={rows_per_shard}"
        done = self._idxtrain(
            "submit",
            *self._options,
            "--run-id",
            run_id,
            shards,
            *options,
            "--recipe",
            "softmax",
            env=self.slurm.environment,
        )
        assert done.returncode == 0, done.stderr
        jobs = dict(line.split() for line in done.stdout.splitlines())
        self.slurm.run("scancel", jobs["train"], jobs["evaluate"], check=True)
        return jobs["prepare"]

    def run(self, run_id: str) -> RunDir:
        return RunDir(self._work / "runs" / run_id)

    def output(self, run_id: str) -> str:
        return "".join(path.read_text(encoding="utf-8") for path in self.run(run_id).slurm.glob("prepare-*.out"))

    def processes(self, job: str) -> list[psutil.Process]:
        """Return all processes of a job that exist, whoever started them."""
        processes = []
        for process in psutil.process_iter():
            environment = _if_allowed(process.environ) or {}
            if environment.get("SLURM_JOB_ID") == job and environment.get("IDXTRAIN_SCRATCH") == str(self.scratch):
                processes.append(process)
        return processes

    def wait_for_workers(self, run_id: str, job: str) -> None:
        self.slurm.wait_for(
            lambda: "workers are up" in self.output(run_id) or self.slurm.state(job) not in ("PENDING", "RUNNING")
        )
        assert "prepare: Spark's master and 2 workers are up: n1, n2\n" in self.output(run_id)


def _if_allowed(question: Any) -> Any:
    try:
        return question()
    except psutil.Error:
        return None


@pytest.fixture(scope="module")
def workspace(slurm: SlurmCluster, small: Made, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder = tmp_path_factory.mktemp("spark-on-slurm")
    return Workspace(folder, slurm, idxtrain_in(folder), small.archives["train_images"].path.parent)


def test_two_workers_make_the_same_dataset_as_one_machine(workspace: Workspace, small: Made) -> None:
    assert small.config.rows_per_shard
    job = workspace.submit("same", small.config.rows_per_shard)
    workspace.slurm.wait_for_end(job)
    output = workspace.output("same")
    assert workspace.slurm.state(job) == "COMPLETED", output
    directory = Path(read_record(workspace.run("same"), "prepare").outputs["dataset"])
    assert directory.name == small.directory.name
    assert parquet_bytes(directory) == parquet_bytes(small.directory)
    # One line about Spark, lines of progress, and the lines that prepare logs on one machine.
    lines = [line for line in output.splitlines() if not re.search(r"^fetch: |\d+ of \d+ Spark tasks$", line)]
    assert lines == ["prepare: Spark's master and 2 workers are up: n1, n2", *small.log.splitlines()[-1:]]
    assert workspace.processes(job) == []
    assert list(workspace.scratch.iterdir()) == []


def test_spark_is_private_and_a_cancelled_job_leaves_nothing(workspace: Workspace) -> None:
    job = workspace.submit("cancelled", 50)
    workspace.wait_for_workers("cancelled", job)
    processes = workspace.processes(job)
    javas = [process for process in processes if process.name() == "java"]
    assert len(javas) >= 3, "a master and two workers"
    conf = sorted(workspace.scratch.glob("idxtrain-job-*/spark-defaults.conf"))
    assert len(conf) == 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in conf} == {0o600}
    (secret,) = {match[1] for path in conf if (match := re.search(r"secret (\w{64})\n", path.read_text()))}
    for process in processes:
        assert secret not in str(_if_allowed(process.cmdline))
        if process.name() not in ("srun", "slurmstepd"):  # Slurm's own processes listen as they like
            listening = [
                c.laddr.ip for c in _if_allowed(process.net_connections) or () if c.status == psutil.CONN_LISTEN
            ]
            assert {address.removeprefix("::ffff:") for address in listening} <= {"127.0.0.1"}, process.name()
    workspace.slurm.run("scancel", job, check=True)
    workspace.slurm.wait_for_end(job)
    workspace.slurm.wait_for(workspace.slurm.idle)
    assert workspace.processes(job) == []
    assert list(workspace.scratch.iterdir()) == []
    assert secret not in workspace.output("cancelled")
    assert not (workspace.run("cancelled").record_file("prepare")).exists()
    assert "Traceback" not in workspace.output("cancelled")


def test_a_preempted_prepare_that_may_end_in_its_own_time_is_requeued(workspace: Workspace) -> None:
    """Slurm first sends SIGTERM to the steps of the job, which are Spark's daemons, but not to prepare."""
    job = workspace.submit("preempted", 60, "--site-set", "prepare.partition=graceful")
    workspace.wait_for_workers("preempted", job)
    workspace.slurm.preempt("n2")
    workspace.slurm.wait_for(lambda: workspace.slurm.state(job) in ("COMPLETED", "FAILED", "CANCELLED"), 300)
    output = workspace.output("preempted")
    assert workspace.slurm.state(job) == "COMPLETED", output
    assert "idxtrain: prepare: stopped on request" in output
    assert "prepare: requeued, to resume from its checkpoint" in output
    assert output.count("Spark's master and 2 workers are up") == 2
    assert list(workspace.scratch.iterdir()) == []


@pytest.mark.slow
def test_the_next_job_removes_what_a_killed_job_left(workspace: Workspace) -> None:
    job = workspace.submit("killed", 40)
    workspace.wait_for_workers("killed", job)
    for process in workspace.processes(job):
        _if_allowed(process.kill)
    workspace.slurm.wait_for_end(job)
    workspace.slurm.wait_for(lambda: workspace.processes(job) == [])
    assert len(list(workspace.scratch.iterdir())) >= 3
    again = workspace.submit("again", 40)
    workspace.slurm.wait_for_end(again)
    assert workspace.slurm.state(again) == "COMPLETED", workspace.output("again")
    assert list(workspace.scratch.iterdir()) == []
