"""The Slurm of the tests is a real one: two nodes run a job's tasks, and a job is requeued."""

import re
import subprocess
from pathlib import Path

import pytest

from deploy.slurm import queue, reasons
from jobs.errors import InputError
from jobs.files import write_json
from jobs.run_dir import RunDir, Work
from pipelines.config import compose
from pipelines.history import summary
from pipelines.slurm import status
from pipelines.slurm.jobs import SlurmJobs
from pipelines.sweep.grid import Sweep, grid_points
from tests.conftest import Idxtrain
from tests.support.slurm_cluster import SlurmCluster, free_ports


def test_a_job_runs_on_both_nodes(slurm: SlurmCluster, tmp_path: Path) -> None:
    out = tmp_path / "out"
    program = "srun sh -c 'echo $SLURM_PROCID of $SLURM_NTASKS on $SLURMD_NODENAME'"
    options = ("--nodes=2", "--ntasks-per-node=1", f"--output={out}", "--wrap", program)
    job = slurm.run("sbatch", "--parsable", *options, check=True).stdout.strip()
    slurm.wait_for_end(job)
    assert slurm.state(job) == "COMPLETED"
    assert sorted(out.read_text().splitlines()) == ["0 of 2 on n1", "1 of 2 on n2"]


@pytest.mark.long
def test_a_requeued_job_runs_again(slurm: SlurmCluster, tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = "echo started; test ${SLURM_RESTART_COUNT:-0} = 1 || sleep 600"
    options = ("--requeue", "--open-mode=append", f"--output={out}", "--wrap", script)
    job = slurm.run("sbatch", "--parsable", *options, check=True).stdout.strip()
    slurm.wait_for(lambda: out.exists() and "started" in out.read_text())
    slurm.run("scontrol", "requeue", job, check=True)
    slurm.wait_for_end(job)
    assert slurm.state(job) == "COMPLETED"
    assert out.read_text().count("started\n") == 2


@pytest.fixture
def commands(slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> SlurmCluster:
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, slurm.environment[name])
    return slurm


def test_a_job_is_found_by_its_script_not_by_its_name(commands: SlurmCluster, tmp_path: Path) -> None:
    scripts = [tmp_path / work / "runs/same/slurm/train.sh" for work in ("one | two", "other")]
    for path in scripts:
        path.parent.mkdir(parents=True)
        path.write_text("#!/bin/sh\n#SBATCH --job-name=idxtrain.same.train --hold --output=/dev/null\ntrue\n")
    jobs = [queue.submit(path) for path in scripts]
    try:
        assert [[job.job for job in queue.find([path])] for path in scripts] == [[job] for job in jobs]
        assert queue.find([tmp_path / "third/runs/same/slurm/train.sh"]) == []
    finally:
        queue.cancel(jobs)


def held_job(script: Path) -> str:
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text("#!/bin/sh\n#SBATCH --hold --output=/dev/null\ntrue\n")
    return queue.submit(script)


def test_a_job_of_another_run_that_has_a_recorded_number_is_neither_shown_nor_cancelled(
    commands: SlurmCluster, idxtrain: Idxtrain, tmp_path: Path
) -> None:
    """Such as after a reset of the controller, or on another cluster that shares the work folder."""
    work = Work(tmp_path / "work")
    theirs = held_job(work.runs / "theirs/slurm/train.sh")
    run = RunDir(work.runs / "ours")
    jobs = SlurmJobs(run)
    jobs.folder.mkdir(parents=True)
    write_json(run.config_file, compose("softmax", {}).to_json())
    jobs.write_jobs({"train": theirs})
    try:
        shown = idxtrain("status", "ours", env=commands.environment).stdout
        assert ["train", theirs, "CANCELLED"] in [line.split()[:3] for line in shown.splitlines()], shown
        assert summary.queued_runs([run]) == frozenset()
        assert idxtrain("cancel", "ours", env=commands.environment).stdout == "nothing to cancel: no job is queued\n"
        assert commands.state(theirs) == "PENDING"
        ours = held_job(jobs.script_file("train"))
        assert summary.queued_runs([run]) == {"ours"}
        assert idxtrain("cancel", "ours", env=commands.environment).stdout == f"cancelled {ours}\n"
    finally:
        queue.cancel([theirs])


def test_a_point_of_a_sweep_knows_its_own_jobs_among_those_of_the_sweep(commands: SlurmCluster, tmp_path: Path) -> None:
    sweep = Sweep(name="s", work=Work(tmp_path), points=grid_points("s", ["seed=0,1"]))
    sweep.write()
    numbers = [held_job(sweep.script_file("train")) for _ in sweep.points]
    for point, number in zip(sweep.points, numbers, strict=True):
        jobs = SlurmJobs(sweep.run(point))
        jobs.folder.mkdir(parents=True)
        jobs.write_jobs({"train": number})
    points = [SlurmJobs(sweep.run(point)) for point in sweep.points]
    try:
        assert summary.queued_runs([jobs.run for jobs in points]) == {"s-0", "s-1"}
        assert status.cancel(points[1]) == numbers[1:]
        assert summary.queued_runs([jobs.run for jobs in points]) == {"s-0"}
    finally:
        queue.cancel(numbers)


def test_the_accounting_of_another_job_with_the_same_number_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "COMPLETED|00:00:07|idxtrain.ours.train\nFAILED|01:00:00|idxtrain.theirs.train\n"
    monkeypatch.setattr(queue, "_call", lambda argv: subprocess.CompletedProcess(argv, 0, said, ""))
    assert queue.account("7", ["idxtrain.ours.train"]) == ("COMPLETED", "00:00:07")
    assert queue.account("7", ["idxtrain.others.train"]) is None


REFUSED = {
    "partition=nowhere": ("the partition is unknown", "partition"),
    "nodes=9": ("no node, or too few of them", "nodes, cpus, memory"),
    "mem=900G": ("no node, or too few of them", "nodes, cpus, memory"),
    "gpus-per-node=2": ("it asks for GPUs of a type, or a resource, that is unknown", "gpus_per_node or gpu_type"),
    "constraint=gpu": ("it asks for a constraint that no node has", "options"),
}


@pytest.mark.parametrize("option", REFUSED)
def test_what_slurm_could_never_start_is_refused_with_the_fix_and_not_submitted(
    commands: SlurmCluster, tmp_path: Path, option: str
) -> None:
    scripts = [tmp_path / name for name in ("prepare.sh", "train.sh")]
    for path, line in zip(scripts, ("nodes=1", option), strict=True):
        path.write_text(f"#!/bin/sh\n#SBATCH --{line} --output=/dev/null\ntrue\n")
    queue.check(scripts[:1])
    why, fix = REFUSED[option]
    with pytest.raises(InputError, match=rf"train\.sh: sbatch refuses it \(.*\): {why}.*; fix: set the site's {fix}"):
        queue.check(scripts)
    assert queue.find(scripts) == []


def test_a_job_that_only_waits_for_nodes_is_submitted_and_its_reason_is_shown(
    commands: SlurmCluster, tmp_path: Path
) -> None:
    path = tmp_path / "train.sh"
    path.write_text("#!/bin/sh\n#SBATCH --nodes=2 --output=/dev/null\ntrue\n")
    commands.run("scontrol", "update", "NodeName=n1,n2", "State=DRAIN", "Reason=test", check=True)
    try:
        queue.check([path])
        job = queue.submit(path)
        expected = "waits for nodes that are down, drained or reserved ("  # and Slurm's word, of which it has several
        commands.wait_for(lambda: reasons.why_pending(queue.find([path])[0].reason).startswith(expected))
        queue.cancel([job])
    finally:
        commands.run("scontrol", "update", "NodeName=n1,n2", "State=RESUME", check=True)
    commands.wait_for(commands.idle)


def test_reasons_of_waiting_jobs_are_explained_and_unknown_ones_are_shown_as_they_are() -> None:
    names = ("Priority", "PartitionTimeLimit", "AssocGrpCPUMinutesLimit", "NewReason", "None")
    never = ("AssocMaxWallDurationPerJobLimit", "QOSMaxCpuPerJobLimit", "QOSMinGRES", "ReservationDeleted")
    assert all(reasons.why_pending(name).startswith("cannot start: ") for name in never)
    held = ("launch failed requeued held", "launch_failed_requeued_held", "job requeued in held state")
    assert all(reasons.why_pending(name).startswith("is held: ") for name in held)
    assert "as many jobs" in reasons.why_refused("QOSMaxSubmitJobPerUserLimit")
    down = "Nodes required for job are DOWN"
    in_tiers = f"({down}, DRAINED or reserved for jobs in higher priority partitions)"
    assert reasons.why_pending(in_tiers) == f"waits for nodes that are down, drained or reserved ({down})"
    shown = {reason: reasons.why_pending(reason) for reason in names}
    assert shown == {
        "Priority": "waits for jobs of higher priority (Priority)",
        "PartitionTimeLimit": (
            "cannot start: more time than the partition allows; fix: set the site's time (PartitionTimeLimit)"
        ),
        "AssocGrpCPUMinutesLimit": (
            "waits: your account has used up what its group may use at a time or in total (AssocGrpCPUMinutesLimit)"
        ),
        "NewReason": "NewReason",
        "None": "",
    }


def test_a_controller_that_is_away_refuses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sbatch = tmp_path / "sbatch"
    said = "sbatch: error: allocation failure: Unable to contact slurm controller (connect failure)"
    sbatch.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(queue.ControllerAwayError, match="sbatch failed"):
        queue.check([tmp_path / "train.sh"])


@pytest.mark.long
def test_a_controller_that_is_away_is_told_from_a_job_that_is_gone(
    commands: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert queue.state("999999") == ""
    away = tmp_path / "slurm.conf"
    text = Path(commands.environment["SLURM_CONF"]).read_text(encoding="utf-8")
    (port,) = free_ports(1)
    away.write_text(re.sub(r"SlurmctldPort=\d+", f"SlurmctldPort={port}", text), encoding="utf-8")
    monkeypatch.setenv("SLURM_CONF", str(away))
    for ask in (queue.state, queue.requeue):
        with pytest.raises(queue.ControllerAwayError):
            ask("1")
