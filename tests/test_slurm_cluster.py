"""The Slurm of the tests is a real one: two nodes run a job's tasks, and a job is requeued."""

from pathlib import Path

import pytest

from tests.support.slurm_cluster import SlurmCluster


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
