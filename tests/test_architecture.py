"""The architecture: which code may import which, what stays light, and how long a file may be."""

import ast
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("pipelines", "deploy", "jobs", "models")  # each may import itself and those to its right
# The only files that may import these packages, at module level or inside a function.
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
def test_no_code_uses_kernel_file_locks(path: Path) -> None:
    """They do not work between nodes on every shared file system: see `jobs.lease`. A node's memory is none."""
    if path != ROOT / "jobs/train/shared_memory.py":
        assert not {name.split(".")[0] for name in imports(path)} & {"fcntl", "filelock"}
        assert "os.lockf" not in path.read_text(encoding="utf-8")


# Short names that everybody in the field uses.
CUSTOMARY = {"numpy": "np", "tensorflow": "tf", "pandas": "pd", "pyarrow": "pa", "pyarrow.parquet": "pq"}
CUSTOMARY |= {"horovod.tensorflow": "hvd"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_import_is_renamed(path: Path) -> None:
    """A module that has to be renamed at its import has the wrong name."""
    renamed = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            renamed += [each.name for each in node.names if each.asname not in (None, CUSTOMARY.get(each.name))]
        elif isinstance(node, ast.ImportFrom):
            renamed += [f"{node.module}.{each.name}" for each in node.names if each.asname]
    assert not renamed


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_dataclasses_of_more_than_three_fields_take_keywords_only(path: Path) -> None:
    """Positional fields of one type can be swapped without any error."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ClassDef):
            continue
        for decorator in map(ast.unparse, node.decorator_list):
            if decorator.startswith("dataclass"):
                fields = [each for each in node.body if isinstance(each, ast.AnnAssign)]
                assert len(fields) <= 3 or "kw_only=True" in decorator, f"{path}: {node.name}"


def test_stages_share_files_not_code() -> None:
    stages = {"fetch", "prepare", "train", "evaluate"}
    for path in SOURCES:
        parts = path.relative_to(ROOT).parts
        if parts[0] == "jobs" and parts[1] in stages:
            names = {name for name in imports(path) if name.startswith("jobs.")} - {
                "jobs.prepare.idx"
            }  # the file format
            used = {name.split(".")[1] for name in names}
            assert used & stages <= {parts[1]}, f"{path} imports another stage's code"


def test_no_file_is_longer_than_400_lines() -> None:
    everything = [*SOURCES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "jobs/demo/page").iterdir()]
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


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["recipes"], ["run", "--dry-run"], ["runs"]])
def test_the_command_line_imports_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    code = (
        f"import os, sys; os.chdir({str(tmp_path)!r}); os.mkdir('work'); sys.argv = ['idxtrain', *{arguments!r}]\n"
        "import contextlib, io\n"
        "from pipelines.cli.app import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "    main()"
    )
    assert not loaded_by(code) & HEAVY


@pytest.mark.parametrize(
    "module", ["jobs.fetch.stage", "jobs.prepare.stage", "jobs.train.preflight", "pipelines.retraining.retrain"]
)
def test_code_that_runs_before_a_stage_imports_nothing_heavy(module: str) -> None:
    assert not loaded_by(f"import {module}") & HEAVY


def test_help_is_fast() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in range(5):
        subprocess.run([Path(sys.executable).with_name("idxtrain"), "--help"], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # CPU time, so that a busy machine passes. It takes 0.2 s; the limit is generous, as speed is left to benchmarks.
    assert (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 5 < 0.5
