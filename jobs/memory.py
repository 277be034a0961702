"""How much memory a process may still take."""

from pathlib import Path

import psutil


def free_memory(cgroup_file: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many bytes this process may still take: what the machine has, within the bounds of its cgroups.

    A cgroup is charged for the files that its processes have read, too. Those not in use give way, as they do in what
    the machine has.
    """
    free = psutil.virtual_memory().available
    try:
        lines = cgroup_file.read_text().splitlines()
    except OSError:
        return free
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            free = min(free, _room(root, name, "memory.max", "memory.current", "inactive_file"))
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            free = min(free, _room(root / "memory", name, *names))
    return max(0, free)


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
    """Return one of a cgroup's statistics, in bytes; 0 where it is not to be had."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.split()[:1] == [name]), 0)
