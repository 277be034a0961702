"""What `plan` advises from a measurement on two machines between which the network is slow."""

import json
import os
import shlex
import subprocess

import pytest

from tests.e2e.test_slurm_machines import cluster
from tests.support.machines import ROOT, USERS
from tests.support.slurm_machines import LOGIN, NODES, SlurmMachines

__all__ = ["cluster"]  # a fixture


@pytest.mark.long
def test_between_machines_at_400_megabits_one_rank_is_the_best_for_lecture(cluster: SlurmMachines) -> None:
    home, login, program = cluster.home / "ada", cluster.machines[LOGIN], ROOT / ".venv/bin/idxtrain"
    (home / "two.toml").write_text("[train]\nnodes = 2\ncpus = 1\n", encoding="utf-8")
    os.chown(home / "two.toml", USERS["ada"], USERS["ada"])
    try:
        for node in NODES:
            cluster.machines.limit(node, "400mbit")
    except subprocess.CalledProcessError as error:
        if "qdisc kind is unknown" not in error.stderr:
            raise
        pytest.skip("this kernel cannot limit a network's rate (sch_tbf)")
    measure = shlex.join([str(program), "doctor", "--site", "two.toml", "--measure", "--recipe", "lecture"])
    options = ("--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1", "--output=doctor.out", "--wrap", measure)
    job = login.run("sbatch", "--parsable", *options, user="ada").stdout.strip()
    cluster.wait_for_end(job)
    output = (home / "doctor.out").read_text(encoding="utf-8")
    assert cluster.state(job) == "COMPLETED", output
    (file,) = (home / "work/speeds").glob("*.site-two.json")
    one, two = json.loads(file.read_text(encoding="utf-8"))["steps"]
    sent = two["gradient_bytes"] / (400e6 / 8)  # a ring of two ranks sends each byte once in each direction
    assert two["gradient_seconds"] > sent
    assert two["seconds"] > one["seconds"]
    plan = login.run(program, "plan", "--recipe", "lecture", "--np", "2", user="ada").stdout
    assert "fewer ranks are faster: --np 1, as " in plan
