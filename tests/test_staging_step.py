"""Staging in a job of a real Slurm: copies on its nodes, which go at its end and when it is cancelled."""

import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deploy.slurm.script import SCRATCH
from tests.support.slurm_cluster import SlurmCluster

PROGRAM = """\
import logging, os, sys, time
from pathlib import Path
from deploy.staging import step
from jobs.logs import log_to_stderr
log_to_stderr()
step._READY_SECONDS = 20.0
scratch = Path(os.environ["IDXTRAIN_SCRATCH"])
with step.staged({stage!r}, Path({environments!r}), os.environ) as placement:
    print(placement.python == sys.executable, *placement.environment.values(), flush=True)
    print("staged" if list(scratch.glob("idxtrain-job-*-staged-*/ready")) else "shared", flush=True)
    time.sleep({seconds})
print("left", *os.listdir(scratch), flush=True)
"""


class Job:
    """A job on both nodes that stages, and what it printed."""

    def __init__(self, slurm: SlurmCluster, folder: Path) -> None:
        self.slurm, self.folder, self.out = slurm, folder, folder / "out"
        self.scratch = folder / "scratch"
        self.scratch.mkdir()

    def submit(self, stage: list[str], environments: Path, seconds: float = 0.0) -> str:
        program = self.folder / "program.py"
        program.write_text(PROGRAM.format(stage=stage, environments=str(environments), seconds=seconds))
        return self.run(Path(sys.executable), program)

    def run(self, python: Path, program: Path) -> str:
        """Submit a program; return the job's ID."""
        script = self.folder / "job.sh"
        script.write_text(f"#!/bin/bash\nexport {SCRATCH}={self.scratch}\nexec {python} {program}\n")
        options = ("--nodes=2", "--ntasks-per-node=1", "--no-requeue", f"--output={self.out}")
        return self.slurm.run("sbatch", "--parsable", *options, script, check=True).stdout.strip()

    def lines(self) -> list[str]:
        return self.out.read_text(encoding="utf-8").splitlines() if self.out.exists() else []


@pytest.fixture
def job(slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Job]:
    monkeypatch.setenv("PYTHONPATH", os.fspath(Path(__file__).parents[1]))
    yield Job(slurm, tmp_path)
    slurm.run("scancel", "--quiet", "--full", "--user=root")
    slurm.wait_for(slurm.idle)


def test_both_nodes_have_copies_until_the_job_ends(job: Job, tmp_path: Path) -> None:
    job.slurm.wait_for_end(job.submit(["shards"], tmp_path))
    lines = [line for line in job.lines() if not line.startswith("srun")]
    (ready,) = [line for line in lines if line.startswith("staging: ")]
    assert ready.startswith("staging: shards on 2 nodes, in ")
    lines.remove(ready)
    assert lines[0].startswith(f"True {job.scratch}/idxtrain-job-")
    assert lines[0].endswith("/shards")
    assert lines[1:] == ["staged", "left"]


# What the launcher and the tasks import.
LIGHT = ("pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection", "psutil")
LAUNCH = """\
import os, subprocess, sys
from pathlib import Path
from deploy.staging.step import staged
from jobs.logs import log_to_stderr
log_to_stderr()
with staged(["environment"], Path({folder!r}) / "environments", os.environ) as placement:
    command = ["-I", "-c", {launcher!r}, "--np", "2", "--run-dir", {folder!r} + "/work/runs/r"]
    rank = [placement.python, "-I", "-c", "import psutil, sys; print(psutil.__file__, file=sys.stderr)"]
    sys.exit(subprocess.run([placement.python, *command, *rank]).returncode)
"""
# The launcher as `make_launcher` makes it, without the allreduce before the training.
LAUNCHER = """\
import os, sys
from deploy.launcher.__main__ import parse
from deploy.launcher.launcher import Launcher
from deploy.slurm import site, step
options = parse(sys.argv[1:])
print(step.__file__, file=sys.stderr, flush=True)
wanted = site.validate({"train": {"nodes": 2, "cpus": 1}}, "")
sys.exit(Launcher(options, step.allocation(wanted, options.run_dir / "heartbeats", os.environ).start).run())
"""


def light_environment(folder: Path) -> Path:
    """Make a virtual environment of few packages, for this checkout; return its Python."""
    packages = folder / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    source = Path(psutil.__file__).parents[1]
    for pattern in LIGHT:
        for path in (*source.glob(f"{pattern}.py"), *source.glob(pattern), *source.glob(f"{pattern}-*.dist-info")):
            copy = shutil.copytree if path.is_dir() else shutil.copy2
            packages.mkdir(parents=True, exist_ok=True)
            copy(path, packages / path.name)
    (packages / "_editable.pth").write_text(str(Path(__file__).parents[1]), encoding="utf-8")
    (folder / "bin").mkdir()
    python = folder / "bin" / "python"
    python.symlink_to(Path(sys.executable).resolve())
    home = Path(sys.executable).resolve().parent
    (folder / "pyvenv.cfg").write_text(f"home = {home}\ninclude-system-site-packages = false\n", encoding="utf-8")
    return python


def test_launcher_and_ranks_run_from_the_copies_on_their_nodes(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    python = light_environment(job.folder / "venv")
    (job.folder / "work/runs/r").mkdir(parents=True)
    program = job.folder / "launch.py"
    program.write_text(LAUNCH.format(folder=str(job.folder), launcher=LAUNCHER), encoding="utf-8")
    number = job.run(python, program)
    job.slurm.wait_for_end(number)
    assert job.slurm.state(number) == "COMPLETED", job.lines()
    staged = f"{job.scratch}/idxtrain-job-{number}-staged-"
    files = [word for line in job.lines() for word in line.split() if word.endswith(".py")]
    assert len(files) == 3, job.lines()
    assert all(file.startswith(staged) for file in files)
    assert sorted(path.suffix for path in (job.folder / "environments").iterdir()) == [".sha256"] * 2 + [".tar"] * 2
    assert list(job.scratch.iterdir()) == []


def test_a_cancelled_job_leaves_no_copies(job: Job, tmp_path: Path) -> None:
    number = job.submit(["shards"], tmp_path, seconds=600)
    job.slurm.wait_for(lambda: "staged" in job.lines())
    job.slurm.run("scancel", number, check=True)
    job.slurm.wait_for_end(number)
    deadline = time.monotonic() + 10
    while list(job.scratch.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert list(job.scratch.iterdir()) == []


def test_the_next_job_removes_the_copies_of_a_job_of_which_everything_was_killed(job: Job, tmp_path: Path) -> None:
    number = job.submit(["shards"], tmp_path, seconds=600)
    job.slurm.wait_for(lambda: "staged" in job.lines())
    for process in psutil.process_iter(["cmdline"]):
        if "deploy.staging.node" in (process.info["cmdline"] or ()) and _scratch_of(process) == str(job.scratch):
            process.kill()
    job.slurm.run("scancel", number, check=True)
    job.slurm.wait_for_end(number)
    assert list(job.scratch.glob(f"idxtrain-job-{number}-staged-*/shards")), "nothing was left that could remove them"
    job.slurm.wait_for_end(job.submit(["shards"], tmp_path))
    assert list(job.scratch.iterdir()) == [], job.lines()


def _scratch_of(process: psutil.Process) -> str:
    try:
        return str(process.environ().get(SCRATCH))
    except psutil.Error:
        return ""


def test_a_damaged_tar_file_is_packed_again_by_the_next_job(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    python, environments = light_environment(job.folder / "venv"), job.folder / "environments"
    program = job.folder / "program.py"
    program.write_text(PROGRAM.format(stage=["environment"], environments=str(environments), seconds=0))
    job.slurm.wait_for_end(job.run(python, program))
    assert "staged" in job.lines()
    for path in environments.glob("packages-*.tar"):
        path.write_bytes(path.read_bytes()[:-600])
        job.slurm.wait_for_end(job.run(python, program))
        warning = f"warning: staging: removed {path.name}, which was damaged: the next job packs it again; running from"
        assert [line for line in job.lines() if line.startswith(warning)], job.lines()
        assert job.lines()[-2:] == ["shared", "left"]
    job.slurm.wait_for_end(job.run(python, program))
    assert job.lines()[-2:] == ["staged", "left"]


def test_a_job_that_cannot_stage_runs_from_the_shared_file_system_with_one_line(job: Job, tmp_path: Path) -> None:
    not_a_folder = tmp_path / "file"
    not_a_folder.touch()
    job.slurm.wait_for_end(job.submit(["environment"], not_a_folder))
    lines = job.lines()
    assert lines[0].startswith("warning: staging: [Errno 17] File exists: ")
    assert lines[0].endswith("; running from the shared file system")
    assert lines[1:] == ["True", "shared", "left"]
