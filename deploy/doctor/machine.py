"""Checks of the machine: GPUs, CPUs, memory, disks, the work folder."""

import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from deploy.doctor.check import Finding, Verdict
from deploy.doctor.probe import ProbeError, ask, cause
from jobs.train.compute.devices import bfloat16_flags

GB = 1_000_000_000
_SECONDS = 30  # nvidia-smi wakes up sleeping GPUs
_QUERY = ("--query-gpu=name,driver_version", "--format=csv,noheader")


def check_gpus(environment: Mapping[str, str], visible: int) -> Finding:
    """List the NVIDIA GPUs that the driver knows. `visible`: how many of them this process may use."""
    name, expected = "GPUs", "any number"
    program = shutil.which("nvidia-smi", path=environment.get("PATH", ""))
    if program is None:
        return Finding(name=name, found=f"{visible} visible, no nvidia-smi" if visible else "none", expected=expected)
    try:
        answer = ask([program, *_QUERY], environment, _SECONDS)
        listed = [line for line in answer.stdout.splitlines() if line.strip()]
        problem = cause(answer) if answer.code else ""
    except ProbeError as error:
        listed, problem = [], str(error)
    # A login node may have the driver's tools but no GPU.
    if "No devices" in problem or "No devices" in "".join(listed[:1]):
        return Finding(name=name, found="none", expected=expected)
    if problem:
        fix = "ask this machine's administrator to fix the NVIDIA driver; until then, train on CPUs"
        return Finding(name=name, found=f"nvidia-smi fails: {problem}", expected=expected, verdict="warning", fix=fix)
    model, _, driver = "".join(listed[:1]).partition(", ")
    return Finding(name=name, found=f"{visible} of {len(listed)} visible ({model}, driver {driver})", expected=expected)


def check_cpus(usable: int, total: int) -> Finding:
    """Return how many CPUs a training may use: a container or a batch job limits them."""
    return Finding(name="CPUs", found=f"{usable} of {total} usable", expected="1 or more")


def check_memory(free: int) -> Finding:
    """Check the free memory in bytes. A rank of the lecture's CNN takes about 1 GB, Spark's Java as much."""
    name, found, expected = "memory", f"{free / GB:.1f} GB free", "4 GB or more"
    if free >= 4 * GB:
        return Finding(name=name, found=found, expected=expected)
    fix = "end other programs, request more from the batch system, or set train.cache=never and use fewer ranks"
    verdict: Verdict = "fails" if free < GB else "warning"
    return Finding(name=name, found=found, expected=expected, verdict=verdict, fix=fix)


def check_bfloat16(cpuinfo: str) -> Finding:
    """Return the CPU's fast units for bfloat16, from the text of /proc/cpuinfo."""
    found = ", ".join(bfloat16_flags(cpuinfo)) or "none: keep train.precision=float32"
    return Finding(name="bfloat16", found=found, expected="affects speed only")


def check_space(name: str, folder: Path, free: int, *, least: int, ample: int, fix: str) -> Finding:
    """Check a file system's free bytes: fails below `least`, warns below `ample`."""
    found, expected = f"{free / GB:.1f} GB free at {folder}", f"{ample / GB:g} GB or more"
    if free >= ample:
        return Finding(name=name, found=found, expected=expected)
    verdict: Verdict = "fails" if free < least else "warning"
    return Finding(name=name, found=found, expected=expected, verdict=verdict, fix=fix)


def check_spaces(
    work: Path,
    environment: Mapping[str, str],
    gpus: int,
    shm: Path = Path("/dev/shm"),  # noqa: S108
) -> list[Finding]:
    """Check the file systems that the pipeline writes to."""
    temporary = Path(environment.get("TMPDIR") or "/tmp")  # noqa: S108
    # NCCL sends data between a node's GPUs through shared memory; without GPUs, only semaphores are there.
    shared = GB if gpus > 1 else GB // 100
    rows = (
        (
            "disk for --work",
            existing_folder(work),
            GB,
            5 * GB,
            "free some space, or give --work on another file system",
        ),
        ("temporary files", temporary, 0, GB, "free some space, or set TMPDIR to another folder"),
        ("shared memory", shm, 0, shared, "give the container more: --shm-size=1g"),
    )
    findings = []
    for name, folder, least, ample, fix in rows:
        try:
            free = shutil.disk_usage(folder).free
        except OSError as error:
            verdict: Verdict = "fails" if least else "warning"
            found = f"{folder}: {error.strerror}"
            findings.append(Finding(name=name, found=found, expected="a folder", verdict=verdict, fix=fix))
        else:
            findings.append(check_space(name, folder, free, least=least, ample=ample, fix=fix))
    return findings


def check_work(work: Path) -> Finding:
    """Check that this user may write to the work folder, and that not everyone may."""
    name, expected = "work folder", "writable by you or your group"
    folder = existing_folder(work)
    exists = folder == work
    if not exists and os.path.lexists(blocking := folder / work.relative_to(folder).parts[0]):
        found = f"{blocking} is not a folder"
        return Finding(name=name, found=found, expected=expected, verdict="fails", fix="give another --work")
    try:
        with tempfile.TemporaryFile(dir=folder) as file:  # has no name, so nothing can remain
            file.write(b"idxtrain")
            file.flush()
        world_writable = exists and work.stat().st_mode & stat.S_IWOTH
    except OSError as error:
        found, fix = f"{folder}: {error.strerror}", "give a --work that you may write to"
        return Finding(name=name, found=found, expected=expected, verdict="fails", fix=fix)
    if world_writable:
        fix = f"chmod o-w {work} (others could change models and data)"
        return Finding(
            name=name, found=f"{work} is writable by everyone", expected=expected, verdict="warning", fix=fix
        )
    return Finding(name=name, found=str(work) if exists else f"{work}, not created yet", expected=expected)


def existing_folder(path: Path) -> Path:
    """Return a folder, or the nearest existing one above it."""
    while not _is_folder(path) and path != path.parent:
        path = path.parent
    return path


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a folder above it is closed to this user
        return False
