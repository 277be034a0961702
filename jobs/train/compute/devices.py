"""The CPUs and GPUs that a rank may use."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs.errors import IdxtrainError

CPUS = "IDXTRAIN_CPUS_PER_RANK"  # set by a launcher that reserves N CPUs for each rank
GPUS = "IDXTRAIN_GPUS_PER_NODE"  # set by a launcher whose site has GPUs: each rank must have one

_CGROUP = Path("/sys/fs/cgroup")


def usable_cpus() -> int:
    """Return how many CPUs this process may use, at least 1: its affinity, bounded by the cgroup's quota.

    The machine's number of cores would be too high in a container or a batch job.
    """
    cpus = len(os.sched_getaffinity(0))
    quota = _cgroup_quota(_CGROUP)
    return max(1, min(cpus, int(quota)) if quota else cpus)


def _cgroup_quota(root: Path) -> float | None:
    """Return the CPUs that cgroup v2's cpu.max or v1's cfs quota grants; None if unlimited."""
    try:
        quota, period = (root / "cpu.max").read_text().split()[:2]
    except (OSError, ValueError):
        try:
            quota = (root / "cpu" / "cpu.cfs_quota_us").read_text()
            period = (root / "cpu" / "cpu.cfs_period_us").read_text()
        except OSError:
            return None
    if quota.strip() in ("max", "-1"):
        return None
    return int(quota) / int(period)


def threads_per_rank(cpus: int, local_rank: int, local_size: int, pinned: bool) -> int:
    """Return a rank's share of a node's CPUs, at least 1; shares differ by at most one.

    `pinned`: the launcher gave each rank CPUs of its own, so there is nothing to divide.
    """
    if pinned:
        return cpus
    return max(1, cpus * (local_rank + 1) // local_size - cpus * local_rank // local_size)


def threads_of(environment: Mapping[str, str], cpus: int, local_rank: int, local_size: int) -> int:
    """Return a rank's CPU threads: those its launcher reserved, or those it is pinned to, else its share of the node.

    `cpus`: usable by this process. Slurm also sets SLURM_CPU_BIND when it binds nothing ("none", "quiet,none").
    """
    reserved = environment.get(CPUS)
    if reserved:
        return max(1, min(cpus, int(reserved)))
    binding = environment.get("SLURM_CPU_BIND", "none").split(",")
    pinned = any(word.startswith(("mask_", "map_", "rank", "cores", "threads", "sockets", "ldom")) for word in binding)
    return threads_per_rank(cpus, local_rank, local_size, pinned)


def bfloat16_flags(cpuinfo: str) -> list[str]:
    """Return the CPU flags that make bfloat16 faster than float32, given the text of /proc/cpuinfo.

    Intel's avx512_bf16 is not one of them. On an Intel (family 6 model 207, in a virtual machine without AMX) bfloat16
    had 0.63 to 0.71 × float32's speed in `lecture`, `residual` and `best`. On an EPYC Zen 4 it had 1.7 and 1.8 × in
    `lecture`.
    """
    first = cpuinfo.partition("\n\n")[0]  # the first processor
    fields = {key.strip(): value.split() for key, _, value in (line.partition(":") for line in first.splitlines())}
    faster = ["amx_bf16"] if fields.get("vendor_id") == ["GenuineIntel"] else ["avx512_bf16", "amx_bf16"]
    return [flag for flag in faster if flag in fields.get("flags", [])]


def configure(tf: Any, local_rank: int, local_size: int, single_threaded_ops: bool = False) -> str:
    """Limit TensorFlow to this rank's share of the node, before it starts; return the share in words.

    `single_threaded_ops`: run each operation on one thread, several operations side by side. How a kernel divides a sum
    among threads decides its rounding.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        # If the launcher shows each rank only its own GPU, there is just index 0.
        gpu = gpus[0 if len(gpus) == 1 else local_rank % len(gpus)]
        tf.config.set_visible_devices(gpu, "GPU")
        tf.config.experimental.set_memory_growth(gpu, True)
        return f"GPU {gpu.name.rpartition(':')[2]}"
    wanted = int(os.environ.get(GPUS) or 0)
    if wanted:  # the allocation pays for them
        cuda = "" if tf.test.is_built_with_cuda() else ", which is built without CUDA"
        raise IdxtrainError(
            f"train: found no GPU in TensorFlow{cuda}, expected {wanted} on each node, as the site says; "
            "fix: build the environment with `make gpu-env`, or run `idxtrain doctor --site`"
        )
    threads = threads_of(os.environ, usable_cpus(), local_rank, local_size)
    intra, inter = (1, threads) if single_threaded_ops else (threads, 1)
    tf.config.threading.set_intra_op_parallelism_threads(intra)
    tf.config.threading.set_inter_op_parallelism_threads(inter)
    return f"{threads} CPU thread{'s' if threads > 1 else ''}"
