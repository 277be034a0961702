"""idxtrain status, cancel and logs of a sweep: on a real Slurm, whose jobs are held, and of one on this machine."""

import subprocess
import sys
from pathlib import Path

import pytest

from jobs.files import write_json
from jobs.run_dir import Work
from jobs.stage import stage_key, write_record
from pipelines.config import compose
from pipelines.slurm.jobs import SlurmJobs
from pipelines.sweep.grid import Sweep, grid_points
from tests.conftest import Idxtrain, MakeArchives
from tests.support.slurm_cluster import SlurmCluster

OPTIONS = ("--recipe", "softmax", "--set=train.max_steps=20", "--name", "s")


def test_a_sweep_on_slurm_is_shown_and_cancelled_by_its_name(
    slurm: SlurmCluster, make_archives: MakeArchives, idxtrain: Idxtrain, tmp_path: Path
) -> None:
    make_archives(tmp_path / "data", (6, 8), 3, train=300, test=50)
    (tmp_path / "site.toml").write_text('[prepare]\noptions = ["--hold"]\n', encoding="utf-8")
    command = ("sweep", *OPTIONS, "--data", "data", "--site", "site.toml", "--at-once", 2)
    too_many = idxtrain(*command, "--grid", "seed=0..17", env=slurm.environment)
    assert too_many.returncode == 2
    assert too_many.stderr.splitlines()[-1].startswith(
        "idxtrain: --grid: found 18 runs, expected 17 or fewer, the MaxArraySize of this Slurm; fix: give fewer values"
    )
    assert not (tmp_path / "work").exists()
    done = idxtrain(*command, "--grid", "seed=0..2", env=slurm.environment)
    assert done.returncode == 0, done.stderr
    jobs = dict(line.split() for line in done.stdout.splitlines())
    array = jobs["train"].partition("_")[0]
    assert slurm.show(array)["ArrayTaskThrottle"] == "2"
    status = idxtrain("status", "s", env=slurm.environment)
    assert status.returncode == 0, status.stderr
    title, header, *rows = [line.split() for line in status.stdout.splitlines()]
    assert title == ["sweep", "s:", "3", "runs,", "3", "waiting"]
    assert header == ["run", "seed", "job", "state", "time", "nodes"]
    assert rows[0][:3] == ["prepare", jobs["prepare"], "PENDING"]
    assert "is held by you; fix: `scontrol release` it" in " ".join(rows[0])
    assert [row[:4] for row in rows[1:4]] == [[f"s-{n}", str(n), f"{array}_{n}", "PENDING"] for n in range(3)]
    assert rows[4][:3] == ["table", jobs["evaluate"], "PENDING"]
    assert "found no logs" in idxtrain("logs", "s", env=slurm.environment).stderr
    again = idxtrain(*command, "--grid", "seed=0..2", env=slurm.environment)
    assert again.returncode == 2
    assert "fix: wait for them, or `idxtrain cancel s`" in again.stderr
    cancelled = idxtrain("cancel", "s", env=slurm.environment).stdout
    assert cancelled.startswith("cancelled ")
    assert set(cancelled.removeprefix("cancelled ").strip().split(", ")) == {
        jobs["prepare"], jobs["evaluate"], *(f"{array}_{n}" for n in range(3)),
    }  # fmt: skip
    assert idxtrain("cancel", "s", env=slurm.environment).stdout == "nothing to cancel: no job is queued\n"
    status = idxtrain("status", "s", env=slurm.environment)
    assert status.returncode == 75
    assert status.stdout.splitlines()[0] == "sweep s: 3 runs, 3 cancelled"
    assert len(status.stdout.splitlines()) == 7


def test_points_at_once_need_a_site(idxtrain: Idxtrain) -> None:
    done = idxtrain("sweep", *OPTIONS, "--grid", "seed=0,1", "--at-once", 2)
    assert done.returncode == 2
    assert "--at-once 2: found no --site, expected one" in done.stderr


def test_the_job_of_the_table_is_shown_after_slurm_has_forgotten_it(
    slurm: SlurmCluster, sweep: Sweep, idxtrain: Idxtrain, tmp_path: Path
) -> None:
    write_json(sweep.jobs_file, {"prepare": "900001", "train": "900002", "evaluate": "900003"})
    for number, point in enumerate(sweep.points):
        run = sweep.run(point)
        run.path.mkdir(exist_ok=True)
        write_json(run.config_file, compose("softmax", {}).to_json())
        for stage in ("fetch", "prepare", "train"):
            outputs = {"validation": {}, "steps": 10, "images_per_second": 1.0}
            write_record(run, stage, stage_key(run, stage), outputs, [])
        jobs = SlurmJobs(run)
        jobs.folder.mkdir()
        jobs.write_jobs({"prepare": "900001", "train": f"900002_{number}"})

    def row() -> tuple[list[str], int]:
        done = idxtrain("status", "s", env=slurm.environment)
        lines = done.stdout.splitlines()
        assert lines[5].startswith("table "), done.stdout + done.stderr
        return [" ".join(lines[5].split()[:3]), *lines[6:]], done.returncode

    assert row() == (["table 900003 CANCELLED"], 75), "it has never started"
    log = sweep.folder / "table-900003.out"
    with log.open("w") as file:
        command = [sys.executable, "-m", "pipelines.sweep.run", str(sweep.work.path), "s"]
        assert subprocess.run(command, stdout=file, stderr=file).returncode == 1
    why = "sweep s: no point has a validation accuracy; the reasons are in the table"
    assert row() == (["table 900003 FAILED", f"table failed (job 900003): {why}; see {log}"], 1)
    assert why in idxtrain("logs", "s", env=slurm.environment).stdout
    with log.open("a") as file:  # as after `scontrol requeue`
        file.write("best by validation: s-0: seed=0\n")
    assert row() == (["table 900003 COMPLETED"], 0)


_TRAIN = """
import signal, sys
from pathlib import Path
from jobs.run_dir import RunDir
from pipelines.lock import RunLock
with RunLock(RunDir(Path(sys.argv[1]))):
    print("locked", flush=True)
    signal.sigwait([signal.SIGTERM])
"""


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """A sweep of two runs that were not submitted."""
    sweep = Sweep(name="s", work=Work(tmp_path / "work"), points=grid_points("s", ["seed=0,1"]))
    sweep.write()
    run = sweep.run(sweep.points[0])
    run.logs.mkdir(parents=True)
    write_json(run.config_file, compose("softmax", {}).to_json())
    (run.logs / "train.log").write_text("train: 1 rank\n", encoding="utf-8")
    return sweep


def test_a_sweep_on_this_machine_is_shown_and_asked_to_stop_by_its_name(sweep: Sweep, idxtrain: Idxtrain) -> None:
    assert idxtrain("cancel", "s").stdout == "nothing to cancel: no run is being trained\n"
    training = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])" + _TRAIN
    command = [sys.executable, "-c", training, str(sweep.run(sweep.points[0]).path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "locked\n"
        assert idxtrain("status", "s").stdout.splitlines() == [
            "sweep s: 2 runs, 1 running, 1 not started",
            "run  seed  state",
            "s-0  0     running      fetch",
            "s-1  1     not started",
        ]
        assert idxtrain("cancel", "s").stdout == f"stopping: process {process.pid} writes a checkpoint first\n"
        assert process.wait(10) == 0
    logs = idxtrain("logs", "s", "--follow")
    assert logs.stdout.splitlines()[1:] == ["train: 1 rank"]
    assert logs.stdout.startswith("==> s-0: train (")
