"""PyTorch's CPU build in an environment of its own: it is a peer, not a dependency."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_ENVIRONMENT = _ROOT / "work" / "torch-cpu"
_PYTHON = _ENVIRONMENT / "bin" / "python"
VERSION = "2.13.0"


def existing() -> Path | None:
    """Return the Python of that environment, if it exists."""
    return _PYTHON if _works(_PYTHON) else None


def python() -> Path | None:
    """Return a Python with PyTorch, from an environment that uv makes once; None if PyTorch cannot be installed."""
    if _works(_PYTHON):
        return _PYTHON
    uv = _ROOT / ".uv" / "bin" / "uv"
    if not uv.exists() or _run([str(uv), "venv", "--quiet", "--clear", str(_ENVIRONMENT)]):
        return None
    for command in installs(str(uv), _PYTHON):
        if not _run(command, links(os.environ)) and _works(_PYTHON):
            return _PYTHON
    return None


def installs(uv: str, interpreter: Path) -> list[list[str]]:
    """Return the commands to try: a CPU build among pip's links, then PyTorch's own index.

    PyPI's build is not tried: it brings 3 GB of CUDA.
    """
    install = [uv, "pip", "install", "--quiet", "--python", str(interpreter)]
    return [[*install, f"torch=={VERSION}+cpu"], [*install, "--torch-backend", "cpu", f"torch=={VERSION}"]]


def links(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment that gives uv pip's links."""
    given = environment.get("PIP_FIND_LINKS")
    return {"UV_FIND_LINKS": ",".join(given.split())} if given else {}


def _works(interpreter: Path) -> bool:
    return interpreter.exists() and not _run([str(interpreter), "-c", "import torch"])


def _run(command: list[str], environment: Mapping[str, str] | None = None) -> int:
    return subprocess.run(
        command, env={**os.environ, **(environment or {})}, capture_output=True, check=False
    ).returncode
