"""Checks of Horovod: what it was built with, and whether two ranks on this machine can add numbers up."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.doctor.check import Check
from deploy.doctor.probe import ask_json
from deploy.launch import Launch, horovodrun

RANKS = 2
_BUILD_SECONDS = 120  # TensorFlow from a cold network file system
_ALLREDUCE_SECONDS = 60
_REBUILD = "build Horovod again: `uv sync --reinstall-package horovod`"
_NO_WARNINGS = {"TF_CPP_MIN_LOG_LEVEL": "3"}


@dataclass(frozen=True)
class Build:
    """What the installed Horovod was built with, and how many GPUs the installed TensorFlow sees."""

    gloo: bool
    mpi: bool
    nccl: bool
    gpus: int


@dataclass(frozen=True)
class Allreduce:
    """What the ranks of `deploy.doctor.allreduce` measured."""

    right: bool
    device: str
    megabytes_per_second: float
    milliseconds: float


def ask_build(environment: Mapping[str, str]) -> Build:
    """Load TensorFlow and Horovod in a process of its own; raise ProbeError where that does not work."""
    return Build(**ask_json([sys.executable, "-m", "deploy.doctor.build"], environment | _NO_WARNINGS, _BUILD_SECONDS))


def check_build(build: Build, gpus: int) -> Check:
    """Check that ranks can talk: over Gloo always, over NCCL where there are GPUs."""
    parts = {"Gloo": build.gloo, "MPI": build.mpi, "NCCL": build.nccl}
    found = "loads; " + ", ".join(name if there else f"no {name}" for name, there in parts.items())
    expected = "Gloo and NCCL" if gpus else "Gloo"
    if not build.gloo:
        return Check("horovod's build", found, expected, "fails", f"{_REBUILD} with HOROVOD_WITH_GLOO=1")
    if gpus and not build.nccl:
        mend = "fine for one GPU; for more, build Horovod with NCCL: see the README's troubleshooting"
        return Check("horovod's build", found, expected, "warning", mend)
    return Check("horovod's build", found, expected)


def broken_build(cause: str) -> Check:
    """Return the row for a Horovod or a TensorFlow that does not load."""
    return Check("horovod's build", f"does not load: {cause}", "Gloo", "fails", _REBUILD)


def check_gpu_use(seen: int, visible: int) -> Check:
    """Check that TensorFlow sees the GPUs that are there: its wheel brings no CUDA unless asked to."""
    name = "tensorflow's GPUs"
    if seen >= visible:
        return Check(name, str(seen), str(visible))
    return Check(name, str(seen), str(visible), "warning", "install CUDA's libraries: `uv sync --extra gpu`")


def allreduce_launch(gpus: int) -> Launch:
    """Return how the ranks are started: as those of a training are, but for the module."""
    how = horovodrun(Path(), RANKS)
    program = how.argv[: how.argv.index("-m")]
    # Two ranks cannot share a GPU: NCCL refuses.
    hidden = {} if gpus >= RANKS else {"CUDA_VISIBLE_DEVICES": ""}
    return Launch((*program, "-m", "deploy.doctor.allreduce"), {**how.environment, **hidden})


def ask_allreduce(how: Launch, environment: Mapping[str, str], seconds: float = _ALLREDUCE_SECONDS) -> Allreduce:
    """Let the ranks add up; raise ProbeError where they do not come to an end in time."""
    return Allreduce(**ask_json(how.argv, {**environment, **how.environment, **_NO_WARNINGS}, seconds))


def check_allreduce(result: Allreduce, how: Launch) -> Check:
    """Check the sums; the speed is for information."""
    speed = f"16 MB at {result.megabytes_per_second:.0f} MB/s, latency {result.milliseconds:.2f} ms"
    if not result.right:
        return broken_allreduce(f"wrong sums on {result.device}", how)
    return Check("allreduce", f"sums right on {result.device}; {speed}", f"right sums on {RANKS} ranks")


def broken_allreduce(cause: str, how: Launch) -> Check:
    """Return the row for ranks that did not come to a right result."""
    return Check("allreduce", cause, f"right sums on {RANKS} ranks", "fails", f"this tells more: {how}")
