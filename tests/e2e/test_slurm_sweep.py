"""A sweep on a real Slurm of two nodes: its prepare job is stopped where requeueing is not allowed."""

from pathlib import Path

import pytest

from deploy.slurm import queue
from jobs.run_dir import Work
from pipelines.slurm.jobs import SlurmJobs
from pipelines.sweep.grid import read_sweep
from tests.conftest import MakeArchives, idxtrain_in
from tests.support.slurm_cluster import SlurmCluster

pytestmark = pytest.mark.long

SETTINGS = ("--recipe", "softmax", "--set=train.batch_size=50", "--set=train.max_steps=20")
SITE = """\
scratch = "/tmp"
requeue = false

[train]
cpus = 2
"""


def test_a_stopped_prepare_is_submitted_again_and_the_array_waits_for_it(
    slurm: SlurmCluster, make_archives: MakeArchives, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_archives(tmp_path / "data", (6, 8), 3, train=300, test=50)
    (tmp_path / "site.toml").write_text(SITE, encoding="utf-8")
    run = idxtrain_in(tmp_path)
    where = ("--work", tmp_path / "work", "--name", "s", "--data", tmp_path / "data", "--site", tmp_path / "site.toml")
    done = run("sweep", *where, *SETTINGS, "--grid", "train.learning_rate=0.05,0.5", env=slurm.environment)
    assert done.returncode == 0, done.stderr
    jobs = dict(line.split() for line in done.stdout.splitlines())
    sweep = read_sweep("s", Work(tmp_path / "work"))
    first = SlurmJobs(sweep.run(sweep.points[0]))
    slurm.wait_for(lambda: first.log_size("prepare", jobs["prepare"]) > 0)
    slurm.run("scancel", "--batch", "--signal=TERM", jobs["prepare"], check=True)
    slurm.wait_for_end(jobs["prepare"], jobs["evaluate"], seconds=400)
    output = first.log_file("prepare", jobs["prepare"]).read_text()
    again = first.jobs()["prepare"]
    assert f"prepare: cannot be requeued (the site does not allow it); resubmitted as job {again}" in output
    assert slurm.state(jobs["prepare"]) == "FAILED"
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, slurm.environment[name])
    states = {job.job: job.state for job in queue.find(sweep.scripts())}
    array = jobs["train"].partition("_")[0]
    ended = [again, f"{array}_0", f"{array}_1", jobs["evaluate"]]
    assert states == {jobs["prepare"]: "FAILED", **dict.fromkeys(ended, "COMPLETED")}
    status = run("status", "s", "--work", tmp_path / "work", env=slurm.environment)
    assert (status.returncode, status.stdout.splitlines()[0]) == (0, "sweep s: 2 runs, 2 trained")
