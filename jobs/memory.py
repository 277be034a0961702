"""How much memory a process may still take, and whether the kernel has killed one for want of it."""

import signal
from collections.abc import Iterator
from pathlib import Path

import psutil

_OOM_CONTROL = "memory.oom_control"  # cgroup v1's place of what is memory.events in v2


def free_memory(cgroup_file: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many bytes this process may still take: what the machine has, within the bounds of its cgroups.

    A cgroup is charged for the files that its processes have read, too. Those not in use give way, as they do in what
    the machine has.
    """
    free = psutil.virtual_memory().available
    for is_v2, name in _memory_groups(cgroup_file):
        if is_v2:
            free = min(free, _room(root, name, "memory.max", "memory.current", "inactive_file"))
        else:
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            free = min(free, _room(root / "memory", name, *names))
    return max(0, free)


def _memory_groups(cgroup_file: Path) -> Iterator[tuple[bool, str]]:
    """Yield the cgroups that may bound this process's memory: whether of version 2, and the name."""
    try:
        lines = cgroup_file.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers == "" or "memory" in controllers.split(","):
            yield controllers == "", name


class OutOfMemory:
    """Tells of processes killed since this object was made whether memory was what they lacked."""

    def __init__(
        self,
        cgroup_file: Path = Path("/proc/self/cgroup"),
        root: Path = Path("/sys/fs/cgroup"),
        vmstat: Path = Path("/proc/vmstat"),
    ) -> None:
        of_groups = [
            root / name.lstrip("/") / "memory.events" if is_v2 else root / "memory" / name.lstrip("/") / _OOM_CONTROL
            for is_v2, name in _memory_groups(cgroup_file)
        ]
        # vmstat counts for the whole machine, so also what others lacked.
        self._files = [file for file in of_groups if file.exists()] or [vmstat]
        self._before = self._kills()

    def _kills(self) -> list[int]:
        return [_statistic(file, "oom_kill") for file in self._files]

    def likely_cause(self, number: int) -> str:
        """Return why a signal may have ended a process, as the end of a sentence; empty where nothing is known."""
        if number != signal.SIGKILL:
            return ""
        return ", as memory ran out; give it more" if self._kills() != self._before else "; was there enough memory?"


def _room(root: Path, name: str, limit: str, usage: str, cached: str) -> int:
    """Return the least that a cgroup and those around it leave; much, where none is bound."""
    least = 2**63
    group = root / name.lstrip("/")
    for folder in (group, *group.parents):
        if not folder.is_relative_to(root):
            break
        try:
            left = int((folder / limit).read_text()) - int((folder / usage).read_text())
        except (OSError, ValueError):  # no such bound here, or the word "max"
            continue
        least = min(least, left + _statistic(folder / "memory.stat", cached))
    return least


def _statistic(file: Path, name: str) -> int:
    """Return one of a cgroup's or the kernel's statistics; 0 where it is not to be had."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.split()[:1] == [name]), 0)
