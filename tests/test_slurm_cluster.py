"""The Slurm of the tests is a real one: two nodes run a job's tasks, and a job is requeued."""

import re
from pathlib import Path

import pytest

from deploy.slurm import queue
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
        assert [job.job for job in queue.find([], jobs[:1])] == jobs[:1]
    finally:
        queue.cancel(jobs)


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
