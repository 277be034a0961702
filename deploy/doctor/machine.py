"""Checks of the machine: GPUs, CPUs, memory, disks, the work directory."""

import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from deploy.doctor.check import Check
from deploy.doctor.probe import ProbeError, ask, cause
from jobs.train.compute.devices import bfloat16_flags

GB = 1_000_000_000
_SECONDS = 30  # nvidia-smi wakes up sleeping GPUs
_QUERY = ("--query-gpu=name,driver_version", "--format=csv,noheader")


def check_gpus(environment: Mapping[str, str], visible: int) -> Check:
    """List the machine's NVIDIA GPUs by its driver; `visible`: how many of them this process may use."""
    expected = "any number"
    program = shutil.which("nvidia-smi", path=environment.get("PATH", ""))
    if program is None:
        return Check("GPUs", f"{visible} visible, no nvidia-smi" if visible else "none", expected)
    try:
        answer = ask([program, *_QUERY], environment, _SECONDS)
        listed = [line for line in answer.stdout.splitlines() if line.strip()]
        problem = cause(answer) if answer.code else ""
    except ProbeError as error:
        listed, problem = [], str(error)
    # A login node may have the driver's tools and no GPU.
    if "No devices" in problem or "No devices" in "".join(listed[:1]):
        return Check("GPUs", "none", expected)
    if problem:
        mend = "ask who runs the machine to mend the NVIDIA driver; until then, train on CPUs"
        return Check("GPUs", f"nvidia-smi fails: {problem}", expected, "warning", mend)
    name, _, driver = "".join(listed[:1]).partition(", ")
    return Check("GPUs", f"{visible} of {len(listed)} visible ({name}, driver {driver})", expected)


def check_cpus(usable: int, all_cpus: int) -> Check:
    """Tell how many CPUs a training gets, which a container or a batch job bounds."""
    return Check("CPUs", f"{usable} of {all_cpus} usable", "1 or more")


def check_memory(free: int) -> Check:
    """Check the memory that is free. A rank of the lecture's CNN takes about 1 GB, Spark's Java as much."""
    name, found, expected = "memory", f"{free / GB:.1f} GB free", "4 GB or more"
    if free >= 4 * GB:
        return Check(name, found, expected)
    mend = "end other programs, ask the batch system for more, or set train.cache=never and fewer ranks"
    return Check(name, found, expected, "fails" if free < GB else "warning", mend)


def check_bfloat16(cpuinfo: str) -> Check:
    """Tell whether the CPU has quick units for bfloat16, by the text of /proc/cpuinfo."""
    return Check(
        "bfloat16", ", ".join(bfloat16_flags(cpuinfo)) or "none: leave train.precision=float32", "only for speed"
    )


def check_space(name: str, folder: Path, free: int, least: int, ample: int, mend: str) -> Check:
    """Check a file system's free bytes: fails below `least`, warns below `ample`."""
    found, expected = f"{free / GB:.1f} GB free at {folder}", f"{ample / GB:g} GB or more"
    if free >= ample:
        return Check(name, found, expected)
    return Check(name, found, expected, "fails" if free < least else "warning", mend)


def check_spaces(work: Path, environment: Mapping[str, str], gpus: int, shm: Path = Path("/dev/shm")) -> list[Check]:  # noqa: S108
    """Check the file systems that the pipeline writes to."""
    temporary = Path(environment.get("TMPDIR") or "/tmp")  # noqa: S108
    # NCCL exchanges between the GPUs of a node through shared memory; without GPUs only semaphores lie there.
    shared = GB if gpus > 1 else GB // 100
    rows = (
        ("disk for --work", existing_folder(work), GB, 5 * GB, "make room, or give --work on another file system"),
        ("temporary files", temporary, 0, GB, "make room, or set TMPDIR to another folder"),
        ("shared memory", shm, 0, shared, "give the container more: --shm-size=1g"),
    )
    checks = []
    for name, folder, least, ample, mend in rows:
        try:
            checks.append(check_space(name, folder, shutil.disk_usage(folder).free, least, ample, mend))
        except OSError as error:
            checks.append(Check(name, f"{folder}: {error.strerror}", "a folder", "fails" if least else "warning", mend))
    return checks


def check_work(work: Path) -> Check:
    """Check that files can be written to the work directory, and that not just anybody may."""
    name, expected = "work directory", "writable, by you or your group"
    folder = existing_folder(work)
    made = folder == work
    if not made and os.path.lexists(blocking := folder / work.relative_to(folder).parts[0]):
        return Check(name, f"{blocking} is not a folder", expected, "fails", "give another --work")
    try:
        with tempfile.TemporaryFile(dir=folder) as file:  # has no name, so it leaves nothing
            file.write(b"idxtrain")
            file.flush()
        anybody = made and work.stat().st_mode & stat.S_IWOTH
    except OSError as error:
        return Check(name, f"{folder}: {error.strerror}", expected, "fails", "give a --work that you may write to")
    if anybody:
        mend = f"others could change models and data: chmod o-w {work}"
        return Check(name, f"{work} is writable by everybody", expected, "warning", mend)
    return Check(name, str(work) if made else f"{work}, to be made", expected)


def existing_folder(path: Path) -> Path:
    """Return a folder, or the nearest one above it that is there."""
    while not _is_folder(path) and path != path.parent:
        path = path.parent
    return path


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # one above it may not be looked into
        return False
