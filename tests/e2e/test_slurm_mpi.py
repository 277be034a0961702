"""The launchers that need MPI, on a real Slurm of two nodes: Horovod built with Debian's OpenMPI (`make mpi-env`).

apt-get install openmpi-bin libopenmpi-dev && pytest -m slow tests/e2e/test_slurm_mpi.py
"""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from jobs.run_dir import RunDir
from tests.conftest import MakeArchives
from tests.support.slurm_cluster import SlurmCluster

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
SITE = """\
launcher = "{launcher}"
scratch = "{scratch}"
# OpenMPI refuses to run as root, as whom the tests may run.
environment = {{ OMPI_ALLOW_RUN_AS_ROOT = "1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM = "1" }}

[train]
nodes = 2
cpus = 1
"""


@pytest.fixture(scope="module")
def mpi_python() -> Path:
    """Return the interpreter of `.venv-mpi`; make that environment if it is missing."""
    if not shutil.which("mpirun") or not shutil.which("mpicxx"):
        pytest.skip("found no mpirun and mpicxx: apt-get install openmpi-bin libopenmpi-dev")
    done = subprocess.run(["make", "mpi-env"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return ROOT / ".venv-mpi" / "bin" / "python"


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["srun-pmix", "mpirun"])
def test_two_ranks_train_over_mpi(
    launcher: str, mpi_python: Path, slurm: SlurmCluster, tmp_path: Path, make_archives: MakeArchives
) -> None:
    make_archives(tmp_path / "data", (12, 20), 3, train=300, test=50)
    (tmp_path / "scratch").mkdir()
    site = tmp_path / "site.toml"
    site.write_text(SITE.format(launcher=launcher, scratch=tmp_path / "scratch"), encoding="utf-8")
    settings = ("--set=train.max_steps=60", "--set=train.batch_size=16", "--recipe=lecture")
    where = ("--site", site, "--data", tmp_path / "data", "--work", tmp_path / "work", "--run-id", "mpi")
    command = [mpi_python, "-m", "pipelines.cli", "submit", *where, *settings]
    done = subprocess.run(list(map(str, command)), env=slurm.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    jobs = dict(line.split() for line in done.stdout.splitlines())
    slurm.wait_for_end(*jobs.values(), seconds=600)
    run = RunDir(tmp_path / "work" / "runs" / "mpi")
    output = "".join(path.read_text(encoding="utf-8") for path in sorted(run.slurm.glob("*.out")))
    assert [slurm.state(job) for job in jobs.values()] == ["COMPLETED"] * 3, output
    metrics = json.loads(run.metrics_file.read_text(encoding="utf-8"))
    assert metrics["world_size"] == 2
    assert metrics["test"]["count"] == 50
    assert metrics["test"]["accuracy"] > 0.9
