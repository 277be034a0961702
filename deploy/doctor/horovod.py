"""Checks of Horovod: how it was built, and whether two ranks on this machine sum numbers correctly."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deploy.doctor.check import Finding
from deploy.doctor.probe import ask_json
from deploy.launcher.config import LaunchConfig
from deploy.launcher.launch import Launch, launch_ranks
from jobs.installation import REBUILD_HOROVOD
from jobs.python import clean_environment, module_command

RANKS = 2
_ALONE_SECONDS = 120  # to load TensorFlow from a cold network file system
_RANKS_SECONDS = 60
_LOADS = 2  # both ranks load TensorFlow at once, possibly on a single CPU
_REBUILD = f"rebuild Horovod: {REBUILD_HOROVOD}"
_NO_WARNINGS = {"TF_CPP_MIN_LOG_LEVEL": "3"}
_ALLREDUCE = module_command("deploy.launcher.allreduce")


@dataclass(frozen=True, kw_only=True)
class AllreduceResult:
    """The JSON that rank 0 of `deploy.launcher.allreduce` prints.

    `gpus`: how many TensorFlow sees. `right`: whether all sums are correct. Speeds are of one allreduce.
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


def ask_alone(environment: Mapping[str, str]) -> AllreduceResult:
    """Load TensorFlow and Horovod in a child process; raise ProbeError if that fails."""
    child_environment = {**clean_environment(environment), **_NO_WARNINGS}
    return AllreduceResult(**ask_json(_ALLREDUCE, child_environment, _ALONE_SECONDS))


def check_build(result: AllreduceResult, gpus: int) -> Finding:
    """Check the libraries by which ranks communicate: Gloo always, NCCL if there are GPUs."""
    libraries = {"Gloo": result.gloo, "MPI": result.mpi, "NCCL": result.nccl}
    found = "loads; " + ", ".join(name if built else f"no {name}" for name, built in libraries.items())
    expected = "Gloo and NCCL" if gpus else "Gloo"
    name = "horovod's build"
    if not result.gloo:
        fix = f"{_REBUILD} with HOROVOD_WITH_GLOO=1"
        return Finding(name=name, found=found, expected=expected, verdict="fails", fix=fix)
    if gpus and not result.nccl:
        fix = "none needed for one GPU; for several, `make gpu-env`"
        return Finding(name=name, found=found, expected=expected, verdict="warning", fix=fix)
    return Finding(name=name, found=found, expected=expected)


def broken_build(cause: str) -> Finding:
    """Return the finding for a Horovod or a TensorFlow that does not load."""
    return Finding(
        name="horovod's build", found=f"does not load: {cause}", expected="Gloo", verdict="fails", fix=_REBUILD
    )


def check_gpu_use(seen: int, visible: int) -> Finding:
    """Check that TensorFlow sees all visible GPUs: its wheel includes CUDA only with an extra."""
    name, found, expected = "tensorflow's GPUs", f"sees {seen}", str(visible)
    if seen >= visible:
        return Finding(name=name, found=found, expected=expected)
    fix = "install CUDA's libraries: `uv sync --extra gpu`"
    return Finding(name=name, found=found, expected=expected, verdict="warning", fix=fix)


def ranks_launch(gpus: int) -> Launch:
    """Return how to start the two ranks: with the launcher that a training uses."""
    how = launch_ranks(_ALLREDUCE, RANKS, LaunchConfig(max_restarts=0))
    # Two ranks cannot share a GPU: NCCL refuses.
    return how if gpus >= RANKS else Launch(how.argv, {"CUDA_VISIBLE_DEVICES": ""})


def ask_ranks(how: Launch, environment: Mapping[str, str], load_seconds: float) -> AllreduceResult:
    """Run the allreduce; raise ProbeError if the ranks fail or do not end in time.

    `load_seconds`: how long loading TensorFlow takes on this machine under its present load; extends the limit.
    """
    seconds = round(_RANKS_SECONDS + _LOADS * load_seconds)
    child_environment = {**clean_environment(environment), **how.environment, **_NO_WARNINGS}
    return AllreduceResult(**ask_json(how.argv, child_environment, seconds))


def check_allreduce(result: AllreduceResult, how: Launch) -> Finding:
    """Check the sums. The speed is for information only."""
    if not result.right:
        return broken_allreduce(f"incorrect sums (per rank: {result.device})", how)
    speed = f"16 MB at {result.megabytes_per_second:.0f} MB/s, latency {result.milliseconds:.2f} ms"
    found = f"correct sums (per rank: {result.device}), {speed}"
    return Finding(name="allreduce", found=found, expected=f"correct sums on {RANKS} ranks")


def broken_allreduce(cause: str, how: Launch) -> Finding:
    """Return the finding for ranks that failed or computed incorrect sums."""
    fix = f"see the full output of: {how}"
    return Finding(name="allreduce", found=cause, expected=f"correct sums on {RANKS} ranks", verdict="fails", fix=fix)
