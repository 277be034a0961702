"""What an installation of the project needs that no list of requirements can demand.

Horovod has no wheels. Compiled by an installer that builds it alone, it lacks TensorFlow, and every rank would fail at
its first import. A checkout builds it correctly (`[tool.uv]` in pyproject.toml); a wheel of ours cannot see to that.
"""

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

from jobs.errors import InputError

PROJECT = "idxtrain"
PACKAGES = ("pipelines", "jobs", "models", "deploy")

_ROOT = Path(__file__).parent.parent
# From a checkout the lock file decides everything. An installed wheel lies in site-packages, without a lock file.
IS_CHECKOUT = (_ROOT / "uv.lock").exists()
_BUILD_TOOLS = "pip install 'cmake<4' 'setuptools<80' wheel"
_BUILD = "HOROVOD_WITH_TENSORFLOW=1 pip install --no-cache-dir --force-reinstall --no-deps --no-build-isolation"
REBUILD_HOROVOD = (
    "`uv sync --reinstall-package horovod`" if IS_CHECKOUT else f"`{_BUILD_TOOLS}`, then `{_BUILD} horovod==0.28.1`"
)
INSTALL = (
    "run `uv sync`, or `make clean setup`" if IS_CHECKOUT else f"install the wheel of {PROJECT} into a new environment"
)


def require_horovod() -> None:
    """Raise InputError unless Horovod is here, with the extension for TensorFlow. Imports neither of them."""
    found = _horovod()
    if found is None:
        raise InputError(f"horovod: found no such package, expected 0.28.1; fix: {REBUILD_HOROVOD}")
    if not list((found / "tensorflow").glob("mpi_lib*.so")):
        raise InputError(
            f"{found}: found a Horovod without TensorFlow, expected one compiled against it; fix: {REBUILD_HOROVOD}"
        )


def _horovod() -> Path | None:
    spec = find_spec("horovod")
    return Path(spec.origin).parent if spec and spec.origin else None


def clashes(installed: Mapping[str, Sequence[str]] | None = None) -> Iterator[str]:
    """Yield "PACKAGE (DISTRIBUTION)" for each package of ours that another distribution of this environment has, too.

    One of the two overwrote the other's files. `installed`: distributions by package; default: this environment's.
    """
    distributions = packages_distributions() if installed is None else installed
    for package in PACKAGES:
        for other in sorted(set(distributions.get(package, ())) - {PROJECT}):
            yield f"{package} ({other})"
