"""In which arithmetic a training computes: float32, or 16 bits where that is quicker."""

from pathlib import Path
from typing import Any

import numpy as np

from jobs.train.compute.collective import Collective
from jobs.train.compute.devices import bfloat16_flags
from jobs.train.config import TrainConfig

_CPUINFO = Path("/proc/cpuinfo")
_LEAST_CAPABILITY = (
    8,
    0,
)  # of a GPU with units for bfloat16: NVIDIA, CUDA C++ programming guide, arithmetic throughput


def chosen(tf: Any, config: TrainConfig, collective: Collective) -> str:
    """Return "float32", "bfloat16" or "float16"; the same on every rank.

    auto is bfloat16 where the devices of all ranks have quick units for it, else float32. It is float32 for a
    deterministic training too, whose bits no device shall decide. Weights and updates are float32 in any case, so that
    a checkpoint can be gone on with in another precision.
    """
    if config.precision != "auto":
        return config.precision
    if config.deterministic:
        return "float32"
    units = collective.gather(np.array([has_bfloat16_units(tf)], np.int32))
    return "bfloat16" if units.all() else "float32"


def has_bfloat16_units(tf: Any) -> bool:
    """Tell whether the GPU that this rank computes on, or else the CPU, has quick units for bfloat16."""
    gpus = tf.config.get_visible_devices("GPU")
    if gpus:
        capability = tf.config.experimental.get_device_details(gpus[0]).get("compute_capability", (0, 0))
        return tuple(capability) >= _LEAST_CAPABILITY
    return bool(bfloat16_flags(_CPUINFO.read_text(encoding="utf-8")))
