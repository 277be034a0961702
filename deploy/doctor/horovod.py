"""Checks of Horovod: what it was built with, and whether two ranks on this machine can add numbers up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deploy.doctor.check import Check
from deploy.doctor.probe import ask_json
from deploy.launcher.config import LaunchConfig
from deploy.launcher.launch import Launch, launch_ranks
from jobs.python import clean_environment, module_command

RANKS = 2
_ALONE_SECONDS = 120  # TensorFlow may come from a cold network file system
_RANKS_SECONDS = 60
_LOADS = 2  # both ranks load TensorFlow, side by side on perhaps too few CPUs
_REBUILD = "build Horovod again: `uv sync --reinstall-package horovod`"
_NO_WARNINGS = {"TF_CPP_MIN_LOG_LEVEL": "3"}
_ALLREDUCE = module_command("deploy.launcher.allreduce")


@dataclass(frozen=True)
class Sums:
    """What rank 0 of `deploy.launcher.allreduce` printed. `gpus`: how many TensorFlow sees.

    The speeds are of one allreduce.
    """

    gloo: bool
    mpi: bool
    nccl: bool
    gpus: int
    device: str
    right: bool
    megabytes_per_second: float
    milliseconds: float
    by_rank: Sequence[float] = ()


def ask_alone(environment: Mapping[str, str]) -> Sums:
    """Load TensorFlow and Horovod in a process of its own; raise ProbeError where that does not work."""
    return Sums(**ask_json(_ALLREDUCE, {**clean_environment(environment), **_NO_WARNINGS}, _ALONE_SECONDS))


def check_build(sums: Sums, gpus: int) -> Check:
    """Check that ranks can talk: over Gloo always, over NCCL where there are GPUs."""
    parts = {"Gloo": sums.gloo, "MPI": sums.mpi, "NCCL": sums.nccl}
    found = "loads; " + ", ".join(name if there else f"no {name}" for name, there in parts.items())
    expected = "Gloo and NCCL" if gpus else "Gloo"
    if not sums.gloo:
        return Check("horovod's build", found, expected, "fails", f"{_REBUILD} with HOROVOD_WITH_GLOO=1")
    if gpus and not sums.nccl:
        mend = "fine for one GPU; for more, one that has NCCL: `make gpu-env`"
        return Check("horovod's build", found, expected, "warning", mend)
    return Check("horovod's build", found, expected)


def broken_build(cause: str) -> Check:
    """Return the row for a Horovod or a TensorFlow that does not load."""
    return Check("horovod's build", f"does not load: {cause}", "Gloo", "fails", _REBUILD)


def check_gpu_use(seen: int, visible: int) -> Check:
    """Check that TensorFlow sees the GPUs that are there: its wheel brings no CUDA unless asked to."""
    name = "tensorflow's GPUs"
    if seen >= visible:
        return Check(name, f"sees {seen}", str(visible))
    return Check(name, f"sees {seen}", str(visible), "warning", "install CUDA's libraries: `uv sync --extra gpu`")


def ranks_launch(gpus: int) -> Launch:
    """Return how the ranks are started: as those of a training are."""
    how = launch_ranks(_ALLREDUCE, RANKS, LaunchConfig(max_restarts=0))
    # Two ranks cannot share a GPU: NCCL refuses.
    return how if gpus >= RANKS else Launch(how.argv, {"CUDA_VISIBLE_DEVICES": ""})


def ask_ranks(how: Launch, environment: Mapping[str, str], load_seconds: float) -> Sums:
    """Let the ranks add up; raise ProbeError where they do not come to an end in time.

    `load_seconds`: what loading TensorFlow takes on this machine as busy as it is, which is granted on top.
    """
    seconds = round(_RANKS_SECONDS + _LOADS * load_seconds)
    told = {**clean_environment(environment), **how.environment, **_NO_WARNINGS}
    return Sums(**ask_json(how.argv, told, seconds))


def check_allreduce(sums: Sums, how: Launch) -> Check:
    """Check the sums; the speed is for information."""
    if not sums.right:
        return broken_allreduce(f"wrong sums (a rank: {sums.device})", how)
    speed = f"16 MB at {sums.megabytes_per_second:.0f} MB/s, latency {sums.milliseconds:.2f} ms"
    return Check("allreduce", f"right sums (a rank: {sums.device}), {speed}", f"right sums on {RANKS} ranks")


def broken_allreduce(cause: str, how: Launch) -> Check:
    """Return the row for ranks that did not come to a right result."""
    return Check("allreduce", cause, f"right sums on {RANKS} ranks", "fails", f"this tells more: {how}")
