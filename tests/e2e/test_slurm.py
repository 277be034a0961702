"""idxtrain submit on a real Slurm of two nodes: the chain of jobs, a requeued or cancelled training, a failed stage."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from deploy.slurm.script import job_name
from deploy.slurm.site import JOB_STAGES
from jobs.run_dir import RunDir
from pipelines.slurm.jobs import SlurmJobs
from tests.conftest import Idxtrain, MakeArchives, idxtrain_in
from tests.support.slurm_cluster import SlurmCluster

pytestmark = pytest.mark.long

STEPS = 150
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")
SETTINGS = {
    "train.deterministic": "true",
    "train.slices": 4,  # of 16 rows; fewer slices are faster
    "train.batch_size": 16,
    "train.max_steps": STEPS,
    "train.log_every": 5,
    "train.checkpoint_every_steps": 10,
    "evaluate.batch_size": 1,  # so that a hundred images are enough for two ranks
}
OPTIONS = ("--recipe", "lecture", *(f"--set={key}={value}" for key, value in SETTINGS.items()))
SITE = """\
partition = "batch"
scratch = "{scratch}"

[train]
nodes = 2
cpus = 1
{train}

[prepare]
cpus = 2

[evaluate]
nodes = 2
"""


class Workspace:
    """A work folder with small archives and a site, and the command line on it."""

    def __init__(self, folder: Path, slurm: SlurmCluster, idxtrain: Idxtrain) -> None:
        self.folder, self.slurm, self._idxtrain = folder, slurm, idxtrain
        self.work, self.scratch = folder / "work", folder / "scratch"
        self.scratch.mkdir()
        # No process on any node may import modules from the folder of submission.
        for name in ("models", "random"):
            (folder / f"{name}.py").write_text("raise SystemExit('not ours')", encoding="utf-8")

    def __call__(self, command: str, *options: object) -> Any:
        return self._idxtrain(command, *options, "--work", self.work, env=self.slurm.environment)

    def site(self, train: str = "") -> Path:
        path = self.folder / "two.toml"
        path.write_text(SITE.format(scratch=self.scratch, train=train), encoding="utf-8")
        return path

    def submit(self, run_id: str, *options: object, train: str = "", data: str = "data") -> dict[str, str]:
        """Submit a run; return the job ID of each stage."""
        where = ("--site", self.site(train), "--data", self.folder / data, "--run-id", run_id)
        done = self("submit", *where, *OPTIONS, *options)
        assert done.returncode == 0, done.stderr
        return dict(line.split() for line in done.stdout.splitlines())

    def run(self, run_id: str) -> RunDir:
        return RunDir(self.work / "runs" / run_id)

    def record(self, run_id: str) -> dict[str, Any]:
        outputs: dict[str, Any] = json.loads(self.run(run_id).record_file("train").read_text())["outputs"]
        return outputs

    def wait_for_checkpoint(self, run_id: str) -> int:
        jobs = SlurmJobs(self.run(run_id))
        self.slurm.wait_for(lambda: jobs.checkpoint_step() > 0, 400)
        return jobs.checkpoint_step()

    def output(self, run_id: str) -> str:
        return "".join(path.read_text() for path in sorted(self.run(run_id).slurm.glob("*.out")))

    def starts(self, run_id: str) -> list[int]:
        """Return the steps at which the training's job was started."""
        entries = SlurmJobs(self.run(run_id)).history()
        return [e["step"] for e in entries if (e["event"], e["stage"]) == ("started", "train")]


@pytest.fixture(scope="module")
def workspace(slurm: SlurmCluster, tmp_path_factory: pytest.TempPathFactory, make_archives: MakeArchives) -> Workspace:
    folder = tmp_path_factory.mktemp("cluster")
    make_archives(folder / "data", (12, 20), 3, train=300, test=100)
    return Workspace(folder, slurm, idxtrain_in(folder))


@pytest.fixture(scope="module")
def whole(workspace: Workspace) -> dict[str, str]:
    """Return the jobs of a run that nothing disturbs."""
    jobs = workspace.submit("whole")
    queued = workspace("status", "whole")
    assert queued.returncode == 0
    assert "waits for the previous stage" in queued.stdout
    again = workspace("submit", "--site", workspace.site(), "--run-id", "whole")
    assert again.returncode == 2
    assert "idxtrain: --run-id whole: found its jobs in the queue: " in again.stderr
    workspace.slurm.wait_for_end(*jobs.values())
    return jobs


def test_the_three_jobs_run_one_after_the_other(workspace: Workspace, whole: dict[str, str]) -> None:
    assert list(whole) == ["prepare", "train", "evaluate"]
    assert [workspace.slurm.state(job) for job in whole.values()] == ["COMPLETED"] * 3, workspace.output("whole")
    shown = [workspace.slurm.show(job) for job in whole.values()]
    assert [(job["NumNodes"], job["NumTasks"]) for job in shown] == [("1", "1"), ("2", "2"), ("2", "2")]
    for before, after in pairwise(shown):
        assert before["EndTime"] <= after["StartTime"]
    metrics = json.loads(workspace.run("whole").metrics_file.read_text())
    assert metrics["world_size"] == 2
    assert metrics["test"]["count"] == 100
    assert "evaluate: 2 ranks share 100 images" in workspace.output("whole")
    assert metrics["test"]["accuracy"] > 0.95
    assert list(workspace.scratch.iterdir()) == []


def test_logs_and_status_show_every_job(workspace: Workspace, whole: dict[str, str]) -> None:
    logs = workspace("logs", "whole", "--follow")
    assert logs.returncode == 0
    assert "train: allreduce over 2 ranks: 16 MB at " in logs.stdout
    assert "train: 2 ranks, each on 1 CPU thread, in float32" in logs.stdout
    assert logs.stdout.index("==> prepare (") < logs.stdout.index("==> train (") < logs.stdout.index("==> evaluate (")
    status = workspace("status")
    assert status.returncode == 0
    assert [line.split()[:3] for line in status.stdout.splitlines()[2:5]] == [
        [stage, job, "COMPLETED"] for stage, job in whole.items()
    ]


def test_a_finished_run_submits_nothing(workspace: Workspace, whole: dict[str, str]) -> None:
    again = workspace("submit", "--site", workspace.site(), "--run-id", "whole")
    assert (again.returncode, again.stdout) == (0, "nothing to submit: all stages are done\n")


def test_a_requeued_training_resumes_to_the_same_weights(workspace: Workspace, whole: dict[str, str]) -> None:
    jobs = workspace.submit("requeued")
    step = workspace.wait_for_checkpoint("requeued")
    workspace.slurm.run("scontrol", "requeue", jobs["train"], check=True)
    workspace.slurm.wait_for_end(jobs["train"])
    assert workspace.slurm.state(jobs["train"]) == "COMPLETED", workspace.output("requeued")
    cancelled = workspace("cancel", "requeued")
    assert cancelled.stdout in (f"cancelled {jobs['evaluate']}\n", "nothing to cancel: no job is queued\n")
    assert 0 < step < STEPS
    first, second = workspace.starts("requeued")
    assert first == 0 < second < STEPS
    assert f"train: resuming from step {second} of {STEPS}" in workspace.output("requeued")
    assert workspace.record("requeued")["weights_sha256"] == workspace.record("whole")["weights_sha256"]
    assert workspace.record("requeued")["world_size"] == 2


def test_a_preempted_training_that_may_end_in_its_own_time_resumes_to_the_same_weights(
    workspace: Workspace, whole: dict[str, str]
) -> None:
    jobs = workspace.submit("graceful", "--site-set", "train.partition=graceful")
    workspace.wait_for_checkpoint("graceful")
    workspace.slurm.preempt("n2")
    workspace.slurm.wait_for(lambda: workspace.slurm.state(jobs["train"]) in ENDED, 700)
    output = workspace.output("graceful")
    assert workspace.slurm.state(jobs["train"]) == "COMPLETED", output
    workspace("cancel", "graceful")
    assert "train: requeued, to resume from its checkpoint" in output
    first, second = workspace.starts("graceful")
    assert first == 0 < second < STEPS
    assert f"stopped on request at step {second} of {STEPS}" in output
    assert workspace.record("graceful")["weights_sha256"] == workspace.record("whole")["weights_sha256"]


def running_from(scratch: Path, module: str) -> int:
    """Return the number of processes that run a module with a Python in a folder."""
    commands = [process.info["cmdline"] or [""] for process in psutil.process_iter(["cmdline"])]
    return sum(module in command and command[0].startswith(f"{scratch}/") for command in commands)


def test_ranks_read_shards_from_copies_on_their_nodes_to_the_same_weights(
    workspace: Workspace, whole: dict[str, str]
) -> None:
    jobs = workspace.submit("shards", "--site-set", 'stage=["shards"]')
    workspace.wait_for_checkpoint("shards")
    (copies,) = workspace.scratch.glob("idxtrain-job-*-staged-*/shards/*")
    assert sorted(path.name for path in (copies / "train").iterdir()) == sorted(
        path.name for path in (workspace.work / "datasets" / copies.name / "train").iterdir()
    )
    workspace.slurm.wait_for_end(*jobs.values())
    assert workspace.record("shards")["weights_sha256"] == workspace.record("whole")["weights_sha256"]
    assert "staging: shards on 2 nodes, in " in workspace.output("shards")
    assert list(workspace.scratch.iterdir()) == []


@pytest.mark.slow
def test_all_processes_run_from_a_staged_environment_to_the_same_weights_and_copies_never_stay(
    workspace: Workspace, whole: dict[str, str]
) -> None:
    staged = ("--site-set", 'stage=["environment", "shards"]')
    jobs = workspace.submit("staged", *staged)
    workspace.wait_for_checkpoint("staged")
    for module, processes in (("jobs.train", 2), ("deploy.slurm.task", 2), ("deploy.launcher", 1)):
        assert running_from(workspace.scratch, module) == processes, module
    workspace.slurm.wait_for_end(*jobs.values(), seconds=600)
    assert [workspace.slurm.state(job) for job in jobs.values()] == ["COMPLETED"] * 3, workspace.output("staged")
    assert workspace.record("staged")["weights_sha256"] == workspace.record("whole")["weights_sha256"]
    assert workspace.output("staged").count("staging: packed packages-") == 1, "all jobs share one tar file"
    assert list(workspace.scratch.iterdir()) == []
    endless = ("--set", "train.max_steps=100000")
    jobs = workspace.submit("cancelled", *staged, *endless)
    workspace.wait_for_checkpoint("cancelled")
    workspace.slurm.run("scancel", *jobs.values(), check=True)
    workspace.slurm.wait_for_end(jobs["train"])
    workspace.slurm.wait_for(lambda: list(workspace.scratch.iterdir()) == [], 30)
    killed = workspace.submit("killed", *staged, *endless)
    workspace.wait_for_checkpoint("killed")
    workspace.slurm.run("scancel", "--full", "--signal=KILL", killed["train"], check=True)
    workspace.slurm.run("scancel", killed["evaluate"])
    workspace.slurm.wait_for_end(killed["train"])
    next_one = workspace.submit("next")
    workspace.slurm.wait_for_end(*next_one.values())
    assert list(workspace.scratch.iterdir()) == []


def test_a_failed_stage_cancels_later_jobs_and_status_shows_why(
    workspace: Workspace, make_archives: MakeArchives
) -> None:
    make_archives(workspace.folder / "bad", (12, 20), 3, train=300, test=50)
    archive = workspace.folder / "bad/train-images-idx3-ubyte.gz"
    archive.write_bytes(archive.read_bytes()[:-6] + bytes(6))
    jobs = workspace.submit("failed", data="bad")
    workspace.slurm.wait_for_end(*jobs.values())
    assert [workspace.slurm.state(job) for job in jobs.values()] == ["FAILED", "CANCELLED", "CANCELLED"]
    queued = workspace.slurm.run(
        "squeue", "--noheader", "--name=" + ",".join(job_name("failed", stage) for stage in JOB_STAGES)
    )
    assert queued.stdout == ""
    status = workspace("status", "failed")
    assert status.returncode == 2
    (why,) = [line for line in status.stdout.splitlines() if "failed (job" in line]
    assert why.startswith(f"prepare failed (job {jobs['prepare']}): {archive}: byte ")
    assert "found a damaged gzip stream" in why
    assert "cannot run, as prepare failed" in status.stdout
    # With the archive fixed, submit resumes at that stage.
    make_archives(workspace.folder / "bad", (12, 20), 3, train=300, test=50)
    again = workspace.submit("failed", data="bad")
    assert list(again) == ["prepare", "train", "evaluate"]
    cancelled = workspace("cancel", "failed")
    assert cancelled.stdout.startswith("cancelled ")
    workspace.slurm.wait_for_end(*again.values())
    assert {workspace.slurm.state(job) for job in again.values()} == {"CANCELLED"}
    status = workspace("status", "failed")
    assert status.returncode == 75
    assert "cancelled" in status.stdout


def test_a_submission_that_slurm_refuses_leaves_no_job(workspace: Workspace) -> None:
    where = ("--site", workspace.site(), "--site-set", "evaluate.partition=nowhere")
    done = workspace("submit", *where, "--data", workspace.folder / "data", "--run-id", "refused", *OPTIONS)
    assert done.returncode == 2
    (error,) = done.stderr.splitlines()
    assert "sbatch refuses it" in error
    assert "invalid partition specified: nowhere" in error
    jobs = workspace.slurm.run(
        "squeue", "--noheader", "--name=" + ",".join(job_name("refused", stage) for stage in JOB_STAGES)
    )
    assert jobs.stdout == ""


def test_dry_run_prints_the_scripts_and_creates_nothing(workspace: Workspace) -> None:
    done = workspace("submit", "--site", "cpu", "--data", workspace.folder / "data", "--run-id", "dry", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("#!/bin/bash") == 3
    assert "# its launcher starts the ranks with\n# srun --nodes=2 --ntasks=4 " in done.stdout
    assert "--dependency=afterok:ID_OF_TRAIN --kill-on-invalid-dep=yes" in done.stdout
    assert "staged" not in done.stdout
    where = ("--site", "cpu", "--data", workspace.folder / "data", "--run-id", "dry")
    done = workspace("submit", *where, "--site-set", 'stage=["environment"]', "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "# before, each job copies its environment to its nodes; the training with\n# srun --nodes=2 " in done.stdout
    assert "# the training starts with\n# STAGED_PYTHON -I -m deploy.launcher --np 4 " in done.stdout
    assert not workspace.run("dry").path.exists()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("--site", "nowhere"), "--site nowhere: found no such site; expected one of bridges2, cpu, local, perlmutter"),
        (("--site", "cpu", "--site-set", "train.node=3"), "train.node: found an unknown key; did you mean nodes?"),
        (("--site", "cpu", "--np", 3), "--np 3: found 2 × 2 ranks in the site"),
        (("--site", "cpu", "--set", "train.batch_size=2"), "train.batch_size: found 2, the global batch, for 4 ranks"),
        (("--site", "cpu", "--data", "missing"), "found no such folder"),
    ],
)
def test_invalid_options_are_refused_before_submission(
    idxtrain: Idxtrain, options: tuple[object, ...], error: str
) -> None:
    done = idxtrain("submit", *options)
    assert done.returncode == 2
    assert error in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_training_resumes_after_its_time_limit(workspace: Workspace, whole: dict[str, str]) -> None:
    settings = ("--set", "train.max_steps=4000", "--set", "train.checkpoint_every_steps=100000")
    reference = workspace.submit("limitless", *settings)
    workspace.slurm.wait_for_end(*reference.values(), seconds=1200)
    # Slurm looks at limits twice a minute or so and warns up to a minute early: the warning comes after 30 to 60 s.
    jobs = workspace.submit("limited", *settings, train='time = "2"\nwarn_seconds = 60')
    workspace.slurm.wait_for(
        lambda: max(workspace.starts("limited"), default=0) > 0 or workspace.slurm.state(jobs["train"]) in ENDED,
        seconds=900,
    )
    assert max(workspace.starts("limited")) > 0, "the training ended before its time limit"
    # One restart is enough: on a busy machine each one may advance only a few steps.
    workspace.slurm.run("scontrol", "update", f"JobId={jobs['train']}", "TimeLimit=60", check=True)
    workspace.slurm.wait_for_end(*jobs.values(), seconds=1200)
    assert [workspace.slurm.state(job) for job in jobs.values()] == ["COMPLETED"] * 3, workspace.output("limited")
    starts = workspace.starts("limited")
    assert starts == sorted(set(starts)), "each start advanced beyond the one before"
    assert "requeued, to resume from its checkpoint" in workspace.output("limited")
    assert workspace.record("limited")["weights_sha256"] == workspace.record("limitless")["weights_sha256"]


@pytest.mark.slow
def test_a_training_resumes_after_a_node_failure(workspace: Workspace, whole: dict[str, str]) -> None:
    jobs = workspace.submit("down")
    workspace.wait_for_checkpoint("down")
    workspace.slurm.run("scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=test", check=True)
    workspace.slurm.wait_for(lambda: workspace.slurm.state(jobs["train"]) == "PENDING")
    # Unchecked: a slurmd that answers has already resumed its node (ReturnToService=2).
    workspace.slurm.run("scontrol", "update", "NodeName=n2", "State=RESUME")
    workspace.slurm.wait_for_end(*jobs.values(), seconds=600)
    assert [workspace.slurm.state(job) for job in jobs.values()] == ["COMPLETED"] * 3, workspace.output("down")
    assert workspace.record("down")["weights_sha256"] == workspace.record("whole")["weights_sha256"]


@pytest.mark.slow
def test_a_stopped_training_is_resubmitted_where_requeueing_is_not_allowed(
    workspace: Workspace, whole: dict[str, str]
) -> None:
    jobs = workspace.submit("resubmitted", "--site-set", "requeue=false")
    workspace.wait_for_checkpoint("resubmitted")
    workspace.slurm.run("scancel", "--batch", "--signal=USR1", jobs["train"], check=True)
    workspace.slurm.wait_for_end(*jobs.values(), seconds=600)
    now = SlurmJobs(workspace.run("resubmitted")).jobs()
    assert now["train"] != jobs["train"]
    assert now["evaluate"] == jobs["evaluate"]
    assert workspace.slurm.state(jobs["train"]) == "FAILED"
    assert [workspace.slurm.state(job) for job in now.values()] == ["COMPLETED"] * 3, workspace.output("resubmitted")
    assert workspace("status", "resubmitted").returncode == 0
    assert workspace.record("resubmitted")["weights_sha256"] == workspace.record("whole")["weights_sha256"]


@pytest.mark.slow
def test_restarts_without_progress_are_limited(workspace: Workspace, whole: dict[str, str]) -> None:
    # There is no checkpoint before the end, and each start is killed before it: all begin at step 0.
    endless = ("--set", "train.max_steps=100000", "--set", "train.checkpoint_every_steps=100000")
    jobs = workspace.submit("stuck", *endless, "--set=launch.max_restarts=1")
    for _ in range(2):
        curve = workspace.run("stuck").curve_file
        workspace.slurm.wait_for(lambda: curve.exists() and workspace.slurm.state(jobs["train"]) == "RUNNING")  # noqa: B023
        curve.unlink()
        workspace.slurm.run("scancel", "--full", "--signal=KILL", jobs["train"])
        workspace.slurm.wait_for(lambda: workspace.slurm.state(jobs["train"]) != "RUNNING")
        workspace.slurm.run("scontrol", "requeue", jobs["train"])
    workspace.slurm.wait_for_end(jobs["train"], seconds=300)
    status = workspace("status", "stuck")
    assert status.returncode == 1
    assert "train: started 2 times at step 0 without progress; fix: give it more time" in status.stdout


@pytest.mark.slow
def test_mnist_trains_on_two_nodes(workspace: Workspace, mnist_dir: Path) -> None:
    where = ("--site", workspace.site(), "--data", mnist_dir, "--dataset", "mnist", "--run-id", "mnist")
    done = workspace("submit", *where)
    assert done.returncode == 0, done.stderr
    jobs = dict(line.split() for line in done.stdout.splitlines())
    workspace.slurm.wait_for_end(*jobs.values(), seconds=900)
    assert [workspace.slurm.state(job) for job in jobs.values()] == ["COMPLETED"] * 3, workspace.output("mnist")
    metrics = json.loads(workspace.run("mnist").metrics_file.read_text())
    assert metrics["world_size"] == 2
    assert metrics["test"]["count"] == 10_000
    assert metrics["test"]["accuracy"] >= 0.9915
