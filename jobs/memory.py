"""How much memory a process may still use, and whether the kernel killed one because memory ran out."""

import signal
from collections.abc import Iterator
from pathlib import Path

import psutil

_OOM_CONTROL = "memory.oom_control"  # cgroup v1's counterpart of memory.events in v2


def free_memory(cgroup_file: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many bytes this process may still use: the machine's free memory, within its cgroups' limits.

    A cgroup is also charged for files that its processes have read. The kernel drops those that are not in use, so they
    count as free, as they do in the machine's figure.
    """
    free = psutil.virtual_memory().available
    for is_v2, name in _memory_groups(cgroup_file):
        if is_v2:
            free = min(free, _headroom(root, name, "memory.max", "memory.current", "inactive_file"))
        else:
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            free = min(free, _headroom(root / "memory", name, *names))
    return max(0, free)


def _memory_groups(cgroup_file: Path) -> Iterator[tuple[bool, str]]:
    """Yield the cgroups that may limit this process's memory: whether it is version 2, and its name."""
    try:
        lines = cgroup_file.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers == "" or "memory" in controllers.split(","):
            yield controllers == "", name


class OutOfMemory:
    """Detects whether the kernel has killed a process for lack of memory since this object was made."""

    def __init__(
        self,
        cgroup_file: Path = Path("/proc/self/cgroup"),
        root: Path = Path("/sys/fs/cgroup"),
        vmstat: Path = Path("/proc/vmstat"),
    ) -> None:
        group_files = [
            root / name.lstrip("/") / "memory.events" if is_v2 else root / "memory" / name.lstrip("/") / _OOM_CONTROL
            for is_v2, name in _memory_groups(cgroup_file)
        ]
        # vmstat counts for the whole machine, so it includes other users' processes.
        self._files = [file for file in group_files if file.exists()] or [vmstat]
        self._before = self._kills()

    def _kills(self) -> list[int]:
        return [_statistic(file, "oom_kill") for file in self._files]

    def likely_cause(self, number: int) -> str:
        """Return why a signal may have ended a process, as the end of a sentence; empty if nothing is known."""
        if number != signal.SIGKILL:
            return ""
        return (
            ", because memory ran out; give it more" if self._kills() != self._before else "; was there enough memory?"
        )


def _headroom(root: Path, name: str, limit: str, usage: str, cached: str) -> int:
    """Return the least bytes left in a cgroup and its ancestors; a very large number if none has a limit."""
    least = 2**63
    group = root / name.lstrip("/")
    for folder in (group, *group.parents):
        if not folder.is_relative_to(root):
            break
        try:
            left = int((folder / limit).read_text()) - int((folder / usage).read_text())
        except (OSError, ValueError):  # no limit here, or the word "max"
            continue
        least = min(least, left + _statistic(folder / "memory.stat", cached))
    return least


def _statistic(file: Path, name: str) -> int:
    """Return one statistic of a cgroup or the kernel; 0 if the file or the line is missing."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.split()[:1] == [name]), 0)
