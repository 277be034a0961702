"""All checks of this machine, in the order of the table. This module gathers the facts; pure functions judge them."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

from deploy.doctor import horovod, machine, software
from deploy.doctor.check import Finding
from deploy.doctor.probe import ProbeError
from deploy.launcher.launch import visible_gpus
from jobs.installation import INSTALL, PROJECT
from jobs.memory import free_memory
from jobs.train.compute.devices import usable_cpus


def examine(
    work: Path, environment: Mapping[str, str], progress: Callable[[str], AbstractContextManager[None]]
) -> Iterator[Finding]:
    """Yield the finding of every check. `progress`: a context manager around each step that takes seconds."""
    gpus = visible_gpus(environment)
    yield from _software(environment)
    yield from _machine(work, environment, gpus)
    yield from _horovod(environment, gpus, progress)


def _software(environment: Mapping[str, str]) -> Iterator[Finding]:
    try:
        project = metadata(PROJECT)  # generated from pyproject.toml, which pins the versions
    except PackageNotFoundError:
        yield Finding(name=PROJECT, found="not installed", expected="installed", verdict="fails", fix=INSTALL)
    else:
        yield software.check_python(str(project["Requires-Python"]))
        yield from software.check_packages(project.get_all("Requires-Dist") or [])
        yield software.check_packages_are_ours()
    yield software.check_java(environment)
    yield software.check_build_tools(environment)
    yield software.check_offline_data()
    yield software.check_object_stores()


def _machine(work: Path, environment: Mapping[str, str], gpus: int) -> Iterator[Finding]:
    yield machine.check_gpus(environment, gpus)
    yield machine.check_cpus(usable_cpus(), os.cpu_count() or 1)
    yield machine.check_bfloat16(_read(Path("/proc/cpuinfo")))
    yield machine.check_memory(free_memory())
    yield from machine.check_spaces(work, environment, gpus)
    yield machine.check_work(work)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _horovod(
    environment: Mapping[str, str], gpus: int, progress: Callable[[str], AbstractContextManager[None]]
) -> Iterator[Finding]:
    begin = time.monotonic()
    try:
        with progress("loading TensorFlow and Horovod"):
            alone = horovod.ask_alone(environment)
    except ProbeError as error:
        yield horovod.broken_build(str(error))
        return  # the ranks would fail for the same reason
    load_seconds = time.monotonic() - begin
    yield horovod.check_build(alone, gpus)
    yield horovod.check_gpu_use(alone.gpus, gpus)
    how = horovod.ranks_launch(gpus)
    try:
        with progress(f"running an allreduce on {horovod.RANKS} ranks"):
            yield horovod.check_allreduce(horovod.ask_ranks(how, environment, load_seconds), how)
    except ProbeError as error:
        yield horovod.broken_allreduce(str(error), how)
