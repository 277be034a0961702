"""The machine that the figures depend on: processor, cores, memory, versions."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from jobs.train.compute.devices import bfloat16_flags, usable_cpus

_PACKAGES = ("tensorflow", "keras", "horovod", "petastorm", "pyarrow", "pyspark", "numpy")
_CPUINFO = Path("/proc/cpuinfo")


def describe() -> dict[str, Any]:
    """Return the machine and the versions, as JSON."""
    return {
        "cpu": cpu_model(),
        "cores": usable_cpus(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "bfloat16": has_bfloat16(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES},
    }


def in_words(machine: dict[str, Any]) -> str:
    """Return a description as one line."""
    units = "with" if machine["bfloat16"] else "without"
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    cores = f"{machine['cores']} core{'s' if machine['cores'] > 1 else ''}"
    return f"{machine['cpu']} ({units} bfloat16 units), {cores}, {machine['memory_gib']} GiB; {versions}."


def cpu_model() -> str:
    """Return the processor's name, family and model: many virtual machines hide the name."""
    fields = _cpuinfo()
    if "model name" not in fields:
        return os.uname().machine
    return f"{fields['model name']}, family {fields.get('cpu family', '?')} model {fields.get('model', '?')}"


def has_bfloat16() -> bool:
    """Return whether the processor computes faster in bfloat16 than in float32."""
    return bool(bfloat16_flags(_CPUINFO.read_text(encoding="utf-8")))


def _cpuinfo() -> dict[str, str]:
    """Return /proc/cpuinfo's fields of the first core."""
    lines = _CPUINFO.read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs}
