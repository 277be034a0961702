"""What each process of a run used of its machine: `logs/usage/STAGE.rank-N.*.json`, a file per process.

The file is written again every minute, so that a process that is killed leaves its last figures.
"""

import os
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from pydantic import ValidationError

from jobs.errors import InputError
from jobs.files import read_object, write_json
from jobs.metrics import Document
from jobs.run_dir import RunDir

# Between two samples: few at first, for stages of seconds, then more, as each looks at all processes of the node.
_LEAST_SECONDS, _MOST_SECONDS, _GROWTH = 0.5, 10.0, 0.05
_WRITE_SECONDS = 60.0  # each write costs the run's file system a rename

_SELF = Path("/proc/self")
# A mapping of a file of `jobs.train.shared_memory`, as proc(5) lists it: where it begins and ends.
_SHARED = re.compile(r"^(\w+)-(\w+) .* (?:/memfd:idxtrain|/dev/shm/#\d+) \(deleted\)$", re.MULTILINE)


class Usage(Document):
    """What one process used, with the processes that it started.

    `began`: seconds since the epoch. `seconds`: from then to the last sample. `cpu_seconds`: of all threads. `cpus`:
    that it may use. `peak_bytes`: of its own memory, exactly, and of the others' together, sampled; what these share
    counts once. `shared_bytes`: of these, what it shares with the other ranks of its node, in full, as all of that is
    reserved at once; records of older versions lack it. `job`: its Slurm job; empty without one.
    """

    stage: str
    rank: int
    host: str
    job: str
    began: float
    seconds: float
    cpu_seconds: float
    cpus: int
    peak_bytes: int
    shared_bytes: int = 0

    @property
    def private_bytes(self) -> int:
        """What no other rank of the node shares."""
        return self.peak_bytes - self.shared_bytes


def read_usage(run: RunDir) -> list[Usage]:
    """Return what all processes of a run used, in the order of their start. A file that is damaged is left out."""
    processes = []
    for path in run.usage.glob("*.json"):
        with suppress(InputError, ValidationError):
            processes.append(Usage.model_validate(read_object(path, "")))
    return sorted(processes, key=lambda each: each.began)


@contextmanager
def recorded(run: RunDir, stage: str, rank: int) -> Iterator[None]:
    """Record what this process uses while the body runs; the figures never fail it, such as on a full disk."""
    process = psutil.Process()
    began = process.create_time()
    path = run.usage / f"{stage}.rank-{rank}.{began:.2f}.{socket.gethostname()}.json"
    others_bytes, private_bytes, shared_bytes, touched_bytes, cpu_seconds = 0, 0, 0, 0, 0.0
    ended = threading.Event()

    def sample() -> None:
        nonlocal others_bytes, private_bytes, shared_bytes, touched_bytes, cpu_seconds
        others = _descendants(process)
        others_bytes = max(others_bytes, sum(map(_bytes, others)))
        shared, touched = _own_shared()
        shared_bytes, touched_bytes = max(shared_bytes, shared), max(touched_bytes, touched)
        # The peak may be of a time before the shared pages were touched, so that the last difference may be too small.
        private_bytes = max(private_bytes, _own_peak() - touched_bytes)
        cpu_seconds = max(cpu_seconds, sum(map(_cpu_seconds, [process, *others])))

    def write() -> None:
        usage = Usage(
            stage=stage,
            rank=rank,
            host=socket.gethostname(),
            job=os.environ.get("SLURM_JOB_ID", ""),
            began=round(began, 2),
            seconds=round(time.time() - began, 2),
            cpu_seconds=round(cpu_seconds, 2),
            cpus=len(os.sched_getaffinity(0)),
            peak_bytes=private_bytes + shared_bytes + others_bytes,
            shared_bytes=shared_bytes,
        )
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, usage.model_dump())

    def watch() -> None:
        start = written = time.monotonic()
        while not ended.wait(min(_MOST_SECONDS, _LEAST_SECONDS + _GROWTH * (time.monotonic() - start))):
            sample()
            if time.monotonic() - written > _WRITE_SECONDS:
                write()
                written = time.monotonic()

    watcher = threading.Thread(target=watch, name="usage", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        sample()
        write()


def _descendants(process: psutil.Process) -> Sequence[psutil.Process]:
    """Return all processes below a process; none if it cannot be seen."""
    with suppress(psutil.Error):
        return process.children(recursive=True)
    return ()


def _own_peak() -> int:
    """Return the most memory that this program has held. getrusage(2) would count the one that started it, too."""
    return _kilobytes(_SELF / "status", "VmHWM:") << 10


def _own_shared() -> tuple[int, int]:
    """Return the size of the memory that this program shares with other ranks, and how much of it it has touched.

    The size bounds the kernel's figure, which also counts what CUDA pins for this program alone. The exact figure is in
    smaps, for which the kernel walks all pages.
    """
    size = sum(int(end, 16) - int(begin, 16) for begin, end in _SHARED.findall("\n".join(_lines(_SELF / "maps"))))
    return size, min(size, _kilobytes(_SELF / "status", "RssShmem:") << 10)


def _bytes(process: psutil.Process) -> int:
    """Return the proportional set size, of which a page that N processes share is 1/N: proc(5), smaps_rollup."""
    return _kilobytes(Path(f"/proc/{process.pid}/smaps_rollup"), "Pss:") << 10


def _kilobytes(path: Path, key: str) -> int:
    return next((int(line.split()[1]) for line in _lines(path) if line.startswith(key)), 0)


def _lines(path: Path) -> Sequence[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # the process has ended
        return ()


def _cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU time of a process and of its children that have ended."""
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)
