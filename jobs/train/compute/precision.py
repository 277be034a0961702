"""The precision a training computes in: float32, or 16 bits where that is faster."""

from pathlib import Path
from typing import Any

import numpy as np

from jobs.train.compute.collective import Collective
from jobs.train.compute.devices import bfloat16_flags
from jobs.train.config import TrainConfig

_CPUINFO = Path("/proc/cpuinfo")
# GPUs from this compute capability on have bfloat16 units: NVIDIA, CUDA C++ programming guide, arithmetic throughput.
_BFLOAT16_CAPABILITY = (8, 0)


def choose_precision(tf: Any, config: TrainConfig, collective: Collective) -> str:
    """Return "float32", "bfloat16" or "float16"; the same on every rank.

    "auto" is bfloat16 if the devices of all ranks compute it fast, else float32. A deterministic training is float32,
    as its bits must not depend on the device. Weights and updates are always float32, so a training may resume in
    another precision.
    """
    if config.precision != "auto":
        return config.precision
    if config.deterministic:
        return "float32"
    fast = collective.gather(np.array([has_fast_bfloat16(tf)], np.int32))
    return "bfloat16" if fast.all() else "float32"


def has_fast_bfloat16(tf: Any) -> bool:
    """Return whether this rank's GPU, or without one the CPU, computes bfloat16 faster than float32."""
    gpus = tf.config.get_visible_devices("GPU")
    if gpus:
        capability = tf.config.experimental.get_device_details(gpus[0]).get("compute_capability", (0, 0))
        return tuple(capability) >= _BFLOAT16_CAPABILITY
    return bool(bfloat16_flags(_CPUINFO.read_text(encoding="utf-8")))
