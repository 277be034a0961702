"""The environment of `make setup SLIM=1`, built from uv's cache: few files, and every command works in it."""

import shutil
import subprocess
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urljoin

import pytest

ROOT = Path(__file__).parents[2]
MOST_FILES = 30_000  # about 16,000, and 11,000 of bytecode; `make setup` makes 59,379, and bytecode as it is used


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of this checkout with a slim environment."""
    folder = tmp_path_factory.mktemp("slim") / "idxtrain"
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    if (ROOT / ".uv").exists():
        (folder / ".uv").symlink_to(ROOT / ".uv")
    done = subprocess.run(["make", "setup", "SLIM=1"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def run(checkout: Path, *command: object) -> str:
    """Run a command of the slim environment; return its output."""
    argv = [str(checkout / ".venv/bin/idxtrain"), *map(str, command)]
    done = subprocess.run(argv, cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def first_page(checkout: Path, command: Sequence[object], path: str = "") -> str:
    """Start a server of the slim environment; return the page at the address that it prints, or at another path."""
    argv = [str(checkout / ".venv/bin/idxtrain"), *map(str, command)]
    with subprocess.Popen(argv, cwd=checkout, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout
            lines: list[str] = []
            for line in process.stdout:
                lines.append(line)
                address = next((word for word in line.split() if word.startswith("http://127.0.0.1:")), "")
                if address:
                    with urllib.request.urlopen(urljoin(address.rstrip(".,"), path), timeout=60) as answer:  # noqa: S310
                        return str(answer.read().decode())
            raise AssertionError("".join(lines))
        finally:
            process.terminate()


@pytest.mark.slow
def test_every_command_works_in_a_slim_environment_of_few_files(checkout: Path, mnist_dir: Path) -> None:
    environment = checkout / ".venv"
    files = [path for path in environment.rglob("*") if not path.is_dir()]
    assert len(files) < MOST_FILES
    assert [path for path in files if path.suffix == ".pyc"], "bytecode is compiled once, here"
    packages = {path.name.partition("-")[0] for path in environment.glob("lib/python*/site-packages/*.dist-info")}
    assert not packages & {"mypy", "pytest", "playwright", "onnx", "statsmodels"}
    assert "Traceback" not in run(checkout, "doctor")
    ending = run(checkout, "run", "--recipe", "softmax", "--data", mnist_dir, "--run-id", "slim").splitlines()[-1]
    assert ending.startswith("test accuracy 0.91")
    run(checkout, "predict", mnist_dir / "t10k-images-idx3-ubyte.gz", "--out", "predicted.csv")
    assert len((checkout / "predicted.csv").read_text(encoding="utf-8").splitlines()) == 10_001
    run(checkout, "report", "slim")
    assert "slim" in run(checkout, "runs")
    assert "<html" in first_page(checkout, ["demo", "slim", "--no-open", "--port", "0"])
    assert first_page(checkout, ["serve", "slim", "--port", "0"], "/health")
