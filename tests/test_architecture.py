"""The rooms: which code may import which, and what must stay out of the way."""

import ast
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("pipelines", "deploy", "jobs", "models")  # each may import those to its right
# The only files that may import these, wherever in the file the import stands.
ONLY_IN = {
    "pyspark": {"jobs/prepare/spark.py"},
    "petastorm": {"jobs/train/data/reader.py"},
    "mlflow": {f"deploy/registry/{name}.py" for name in ("registry", "mlflow_model", "mlflow_runs")},
    "horovod": {"jobs/train/compute/collective.py", "deploy/launcher/allreduce.py"},
}
SOURCES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    allowed = ROOMS[ROOMS.index(room) :]
    packages = {name.split(".")[0] for name in imports(path)}
    assert packages & set(ROOMS) <= set(allowed)
    assert "tests" not in packages
    for package, files in ONLY_IN.items():
        assert package not in packages or str(path.relative_to(ROOT)) in files


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_lock_is_the_kernels(path: Path) -> None:
    """Which does not reach from node to node on every shared file system: see `jobs.lease`."""
    assert not {name.split(".")[0] for name in imports(path)} & {"fcntl", "filelock"}


def test_stages_share_files_not_code() -> None:
    stages = {"fetch", "prepare", "train", "evaluate"}
    for path in SOURCES:
        parts = path.relative_to(ROOT).parts
        if parts[0] == "jobs" and parts[1] in stages:
            names = {name for name in imports(path) if name.startswith("jobs.")} - {"jobs.prepare.idx"}  # the format
            used = {name.split(".")[1] for name in names}
            assert used & stages <= {parts[1]}, f"{path} imports another stage's code"


def test_no_file_is_long() -> None:
    everything = [*SOURCES, *(ROOT / "tests").rglob("*.py")]
    long = {str(path): lines for path in everything if (lines := len(path.read_text().splitlines())) > 400}
    assert not long


def loaded_by(code: str) -> set[str]:
    program = f"{code}\nimport sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


HEAVY = {
    "tensorflow",
    "keras",
    "pyspark",
    "py4j",
    "horovod",
    "petastorm",
    "mlflow",
    "pyarrow",
    "pandas",
    "numpy",
    "h5py",
    "scipy",
}


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["recipes"], ["run", "--dry-run"]])
def test_the_command_line_loads_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    code = (
        f"import os, sys; os.chdir({str(tmp_path)!r}); sys.argv = ['idxtrain', *{arguments!r}]\n"
        "import contextlib, io\n"
        "from pipelines.cli.app import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "    main()"
    )
    assert not loaded_by(code) & HEAVY


@pytest.mark.parametrize(
    "module", ["jobs.fetch.stage", "jobs.prepare.stage", "jobs.train.preflight", "pipelines.retraining.retrain"]
)
def test_what_runs_before_a_stage_loads_nothing_heavy(module: str) -> None:
    assert not loaded_by(f"import {module}") & HEAVY


def test_help_is_quick() -> None:
    seconds = []
    for _ in range(7):
        begin = time.perf_counter()
        subprocess.run([Path(sys.executable).with_name("idxtrain"), "--help"], capture_output=True, check=True)
        seconds.append(time.perf_counter() - begin)
    # Seen: 0.22 s on a machine half as quick as usual.
    assert statistics.median(seconds) < 0.5
