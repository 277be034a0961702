"""idxtrain submit on a real Slurm of two nodes: the chain, a requeued and a cancelled training, a failed stage."""

import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from jobs.run_dir import RunDir
from pipelines.slurm.jobs import SlurmJobs
from tests.conftest import Idxtrain, MakeArchives, idxtrain_in
from tests.support.slurm_cluster import SlurmCluster

STEPS = 150
SETTINGS = {
    "train.deterministic": "true",
    "train.slices": 4,  # of 16 rows; fewer are quicker
    "train.batch_size": 16,
    "train.max_steps": STEPS,
    "train.log_every": 5,
    "train.checkpoint_every_steps": 10,
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
"""


class Place:
    """A work directory with small archives and a site, and the command line on it."""

    def __init__(self, folder: Path, slurm: SlurmCluster, idxtrain: Idxtrain) -> None:
        self.folder, self.slurm, self._idxtrain = folder, slurm, idxtrain
        self.work, self.scratch = folder / "work", folder / "scratch"
        self.scratch.mkdir()
        # No process on any node is to run what lies where one submits.
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
        self.slurm.wait_for(lambda: jobs.checkpoint_step() > 0)
        return jobs.checkpoint_step()

    def said(self, run_id: str) -> str:
        return "".join(path.read_text() for path in sorted(self.run(run_id).slurm.glob("*.out")))

    def starts(self, run_id: str) -> list[int]:
        """Return the steps at which the training's job was started."""
        entries = SlurmJobs(self.run(run_id)).history()
        return [e["step"] for e in entries if (e["event"], e["stage"]) == ("started", "train")]


@pytest.fixture(scope="module")
def place(slurm: SlurmCluster, tmp_path_factory: pytest.TempPathFactory, make_archives: MakeArchives) -> Place:
    folder = tmp_path_factory.mktemp("cluster")
    make_archives(folder / "data", (12, 20), 3, train=300, test=50)
    return Place(folder, slurm, idxtrain_in(folder))


@pytest.fixture(scope="module")
def whole(place: Place) -> dict[str, str]:
    """The jobs of a run that nothing disturbed."""
    begin = time.monotonic()
    jobs = place.submit("whole")
    assert time.monotonic() - begin < 2  # for a person at a prompt
    queued = place("status", "whole")
    assert queued.returncode == 0
    assert "waits for the stage before" in queued.stdout
    again = place("submit", "--site", place.site(), "--run-id", "whole")
    assert again.returncode == 2
    assert "idxtrain: --run-id whole: found its jobs in the queue: " in again.stderr
    place.slurm.wait_for_end(*jobs.values())
    return jobs


def test_three_jobs_one_after_the_other(place: Place, whole: dict[str, str]) -> None:
    assert list(whole) == ["prepare", "train", "evaluate"]
    assert [place.slurm.state(job) for job in whole.values()] == ["COMPLETED"] * 3, place.said("whole")
    shown = [place.slurm.show(job) for job in whole.values()]
    assert [(job["NumNodes"], job["NumTasks"]) for job in shown] == [("1", "1"), ("2", "2"), ("1", "1")]
    for before, after in pairwise(shown):
        assert before["EndTime"] <= after["StartTime"]
    metrics = json.loads(place.run("whole").metrics_file.read_text())
    assert metrics["world_size"] == 2
    assert metrics["test"]["count"] == 50
    assert metrics["test"]["accuracy"] > 0.95
    assert list(place.scratch.iterdir()) == []


def test_what_the_jobs_said(place: Place, whole: dict[str, str]) -> None:
    logs = place("logs", "whole", "--follow")
    assert logs.returncode == 0
    assert "train: allreduce over 2 ranks: 16 MB at " in logs.stdout
    assert "train: 2 ranks, each on 1 CPU thread, in float32" in logs.stdout
    assert logs.stdout.index("==> prepare (") < logs.stdout.index("==> train (") < logs.stdout.index("==> evaluate (")
    status = place("status")
    assert status.returncode == 0
    assert [line.split()[:3] for line in status.stdout.splitlines()[2:]] == [
        [stage, job, "COMPLETED"] for stage, job in whole.items()
    ]


def test_nothing_is_done_twice(place: Place, whole: dict[str, str]) -> None:
    again = place("submit", "--site", place.site(), "--run-id", "whole")
    assert (again.returncode, again.stdout) == (0, "nothing to submit: all stages are done\n")


def test_a_requeued_training_goes_on_to_the_same_bits(place: Place, whole: dict[str, str]) -> None:
    jobs = place.submit("requeued")
    step = place.wait_for_checkpoint("requeued")
    place.slurm.run("scontrol", "requeue", jobs["train"], check=True)
    place.slurm.wait_for_end(jobs["train"])
    assert place.slurm.state(jobs["train"]) == "COMPLETED", place.said("requeued")
    cancelled = place("cancel", "requeued")
    assert cancelled.stdout in (f"cancelled {jobs['evaluate']}\n", "nothing to cancel: no job is queued\n")
    assert 0 < step < STEPS
    first, second = place.starts("requeued")
    assert first == 0 < second < STEPS
    assert f"train: resuming from step {second} of {STEPS}" in place.said("requeued")
    assert place.record("requeued")["weights_sha256"] == place.record("whole")["weights_sha256"]
    assert place.record("requeued")["world_size"] == 2


def test_a_failed_stage_takes_the_rest_along_and_status_says_why(place: Place, make_archives: MakeArchives) -> None:
    make_archives(place.folder / "bad", (12, 20), 3, train=300, test=50)
    archive = place.folder / "bad/train-images-idx3-ubyte.gz"
    archive.write_bytes(archive.read_bytes()[:-6] + bytes(6))
    jobs = place.submit("failed", data="bad")
    place.slurm.wait_for_end(*jobs.values())
    assert [place.slurm.state(job) for job in jobs.values()] == ["FAILED", "CANCELLED", "CANCELLED"]
    queued = place.slurm.run(
        "squeue", "--noheader", "--name=" + ",".join(SlurmJobs(place.run("failed")).names().values())
    )
    assert queued.stdout == ""
    status = place("status", "failed")
    assert status.returncode == 2
    (why,) = [line for line in status.stdout.splitlines() if "failed (job" in line]
    assert why.startswith(f"prepare failed (job {jobs['prepare']}): {archive}: byte ")
    assert "found a damaged gzip stream" in why
    assert "cannot run, as prepare failed" in status.stdout
    # The archive mended, submit goes on from there.
    make_archives(place.folder / "bad", (12, 20), 3, train=300, test=50)
    again = place.submit("failed", data="bad")
    assert list(again) == ["prepare", "train", "evaluate"]
    cancelled = place("cancel", "failed")
    assert cancelled.stdout.startswith("cancelled ")
    place.slurm.wait_for_end(*again.values())
    assert {place.slurm.state(job) for job in again.values()} == {"CANCELLED"}
    status = place("status", "failed")
    assert status.returncode == 75
    assert "cancelled" in status.stdout


def test_what_slurm_refuses_leaves_no_job_behind(place: Place) -> None:
    where = ("--site", place.site(), "--site-set", "evaluate.partition=nowhere", "--data", place.folder / "data")
    done = place("submit", *where, "--run-id", "refused", *OPTIONS)
    assert done.returncode == 2
    (said,) = done.stderr.splitlines()
    assert "sbatch refuses it" in said
    assert "invalid partition specified: nowhere" in said
    jobs = place.slurm.run(
        "squeue", "--noheader", f"--name={','.join(SlurmJobs(place.run('refused')).names().values())}"
    )
    assert jobs.stdout == ""


def test_dry_run_prints_the_scripts_and_makes_nothing(place: Place) -> None:
    done = place("submit", "--site", "cpu", "--data", place.folder / "data", "--run-id", "dry", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("#!/bin/bash") == 3
    assert "--dependency=afterok:ID_OF_TRAIN --kill-on-invalid-dep=yes" in done.stdout
    assert not place.run("dry").path.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--site", "nowhere"), "--site nowhere: found no such site, expected one of bridges2, cpu, local, perlmutter"),
        (("--site", "cpu", "--site-set", "train.node=3"), "train.node: found an unknown key; did you mean nodes?"),
        (("--site", "cpu", "--np", 3), "--np 3: found 2 × 2 ranks in the site"),
        (("--site", "cpu", "--set", "train.batch_size=2"), "train.batch_size: found 2, the global batch, for 4 ranks"),
        (("--site", "cpu", "--data", "missing"), "found no such folder"),
    ],
)
def test_refused_at_the_prompt(idxtrain: Idxtrain, options: tuple[object, ...], said: str) -> None:
    done = idxtrain("submit", *options)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_time_limit_in_mid_training(place: Place, whole: dict[str, str]) -> None:
    settings = ("--set", "train.max_steps=4000", "--set", "train.checkpoint_every_steps=100000")
    reference = place.submit("limitless", *settings)
    place.slurm.wait_for_end(*reference.values(), seconds=1200)
    # Slurm looks at limits twice a minute or so and warns up to a minute early: the warning comes after 30 to 60 s.
    jobs = place.submit("limited", *settings, train='time = "2"\nwarn_seconds = 60')
    ended = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")
    place.slurm.wait_for(
        lambda: max(place.starts("limited"), default=0) > 0 or place.slurm.state(jobs["train"]) in ended, seconds=900
    )
    assert max(place.starts("limited")) > 0, "the training was over before its limit"
    # Once is enough: on a busy machine each such start may get only a few steps further.
    place.slurm.run("scontrol", "update", f"JobId={jobs['train']}", "TimeLimit=60", check=True)
    place.slurm.wait_for_end(*jobs.values(), seconds=1200)
    assert [place.slurm.state(job) for job in jobs.values()] == ["COMPLETED"] * 3, place.said("limited")
    starts = place.starts("limited")
    assert starts == sorted(set(starts)), "each start got further than the one before"
    assert "goes back into the queue" in place.said("limited")
    assert place.record("limited")["weights_sha256"] == place.record("limitless")["weights_sha256"]


@pytest.mark.slow
def test_a_node_down_in_mid_training(place: Place, whole: dict[str, str]) -> None:
    jobs = place.submit("down")
    place.wait_for_checkpoint("down")
    place.slurm.run("scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=test", check=True)
    place.slurm.wait_for(lambda: place.slurm.state(jobs["train"]) == "PENDING")
    # No check: a slurmd that answers has brought its node back by itself (ReturnToService=2).
    place.slurm.run("scontrol", "update", "NodeName=n2", "State=RESUME")
    place.slurm.wait_for_end(*jobs.values(), seconds=600)
    assert [place.slurm.state(job) for job in jobs.values()] == ["COMPLETED"] * 3, place.said("down")
    assert place.record("down")["weights_sha256"] == place.record("whole")["weights_sha256"]


@pytest.mark.slow
def test_resubmitted_where_requeueing_is_not_allowed(place: Place, whole: dict[str, str]) -> None:
    jobs = place.submit("resubmitted", "--site-set", "requeue=false")
    place.wait_for_checkpoint("resubmitted")
    place.slurm.run("scancel", "--batch", "--signal=USR1", jobs["train"], check=True)
    place.slurm.wait_for_end(*jobs.values(), seconds=600)
    now = SlurmJobs(place.run("resubmitted")).jobs()
    assert now["train"] != jobs["train"]
    assert now["evaluate"] == jobs["evaluate"]
    assert place.slurm.state(jobs["train"]) == "FAILED"
    assert [place.slurm.state(job) for job in now.values()] == ["COMPLETED"] * 3, place.said("resubmitted")
    assert place("status", "resubmitted").returncode == 0
    assert place.record("resubmitted")["weights_sha256"] == place.record("whole")["weights_sha256"]


@pytest.mark.slow
def test_restarts_without_progress_have_a_bound(place: Place, whole: dict[str, str]) -> None:
    # No checkpoint before the end, and killed before it, so that each start begins at step 0.
    settings = (
        "--set",
        "train.max_steps=100000",
        "--set",
        "train.checkpoint_every_steps=100000",
        "--set=launch.max_restarts=1",
    )
    jobs = place.submit("stuck", *settings)
    for _ in range(2):
        curve = place.run("stuck").curve_file
        place.slurm.wait_for(lambda: curve.exists() and place.slurm.state(jobs["train"]) == "RUNNING")  # noqa: B023
        curve.unlink()
        place.slurm.run("scancel", "--full", "--signal=KILL", jobs["train"])
        place.slurm.wait_for(lambda: place.slurm.state(jobs["train"]) != "RUNNING")
        place.slurm.run("scontrol", "requeue", jobs["train"])
    place.slurm.wait_for_end(jobs["train"], seconds=300)
    status = place("status", "stuck")
    assert status.returncode == 1
    assert "train: was started 2 times at step 0 and came no further; give it more time" in status.stdout


@pytest.mark.slow
def test_mnist_on_two_nodes(place: Place, mnist_dir: Path) -> None:
    where = ("--site", place.site(), "--data", mnist_dir, "--dataset", "mnist", "--run-id", "mnist")
    done = place("submit", *where)
    assert done.returncode == 0, done.stderr
    jobs = dict(line.split() for line in done.stdout.splitlines())
    place.slurm.wait_for_end(*jobs.values(), seconds=900)
    assert [place.slurm.state(job) for job in jobs.values()] == ["COMPLETED"] * 3, place.said("mnist")
    metrics = json.loads(place.run("mnist").metrics_file.read_text())
    assert metrics["world_size"] == 2
    assert metrics["test"]["count"] == 10_000
    assert metrics["test"]["accuracy"] >= 0.9915
