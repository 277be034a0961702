"""Wait for a predecessor, an earlier launcher of the same run, and its ranks, so that two never train at once.

A launcher that is killed leaves its ranks behind. They stop by themselves, but first finish their current
`steps_per_execution` steps and write a checkpoint. The run may be started again before that. So each launcher names
itself in `launcher.json` among the run's heartbeats while it lives, and looks there first. The run's lock is not
enough: its owner is a process above the launcher, which may be the one that was killed.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from deploy.launcher.watch import Watch
from jobs.errors import InputError
from jobs.files import read_object, write_json
from jobs.process import ProcessId, this_process
from jobs.run_dir import RunDir

_LAUNCHER = "launcher.json"
_POLL_SECONDS = 0.2
_REFRESH_SECONDS = 10.0
_STALE_SECONDS = 60.0  # an older file of a process on another machine counts as that of a dead one


@contextmanager
def only_launcher(run: RunDir, stall_seconds: float, is_stop_requested: Callable[[], bool]) -> Iterator[None]:
    """Wait until no process of a predecessor runs, then register this process as the run's launcher.

    Kills ranks of a dead predecessor that stall (see `deploy.launcher.watch`). Enters early, unregistered, if this
    process is asked to stop. Raises InputError if a process has stalled where this one cannot kill it.
    """
    folder = run.heartbeats
    _wait(folder, stall_seconds, is_stop_requested)
    if is_stop_requested():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    launcher = folder / _LAUNCHER
    write_json(launcher, asdict(this_process()))
    has_ended = threading.Event()
    threading.Thread(target=_refresh, args=(launcher, has_ended), name="launcher", daemon=True).start()
    try:
        yield
    finally:
        has_ended.set()
        launcher.unlink(missing_ok=True)


def clear_heartbeats(run: RunDir) -> None:
    """Remove the heartbeats of earlier attempts, this launcher's and its predecessors'."""
    for path in run.heartbeats.iterdir():
        if path.name != _LAUNCHER:
            path.unlink(missing_ok=True)


def _refresh(launcher: Path, has_ended: threading.Event) -> None:
    while not has_ended.wait(_REFRESH_SECONDS):
        with suppress(OSError):
            os.utime(launcher)


def _wait(folder: Path, stall_seconds: float, is_stop_requested: Callable[[], bool]) -> None:
    if not (folder / _LAUNCHER).exists():  # the predecessor exited normally, after its ranks
        return
    before: Mapping[Path, ProcessId] = {}
    watch = Watch(folder, (), stall_seconds)
    while (running := _running(folder)) and not is_stop_requested():
        if not before:
            which = ", ".join(f"{process.pid} on {process.host}" for process in running.values())
            print(f"train: waiting for an earlier training of this run to stop: process {which}", file=sys.stderr)
        if before != running:  # Watch expects heartbeats of all its ranks
            ranks = [int(path.stem.removeprefix("rank-")) for path in running if _is_rank(path)]
            watch = Watch(folder, ranks, stall_seconds)
        before = running
        if all(_is_rank(path) for path in running) and watch.stall():  # a living launcher handles stalls itself
            _kill(running.values())
        time.sleep(_POLL_SECONDS)


def _is_rank(path: Path) -> bool:
    return path.name != _LAUNCHER


def _running(folder: Path) -> dict[Path, ProcessId]:
    """Return the predecessor's processes that still run, by their files."""
    running = {}
    for path in [folder / _LAUNCHER, *sorted(folder.glob("rank-*.json"))]:
        try:
            raw = read_object(path, "remove it")
            process = ProcessId(**{name: raw[name] for name in ("host", "machine", "pid", "began")})
            runs = process.runs()
            is_running = _age(path) < _STALE_SECONDS if runs is None else runs
        except (InputError, OSError, KeyError, TypeError):  # removed by now, or torn by a power cut, which ended all
            continue
        if is_running:
            running[path] = process
    return running


def _age(path: Path) -> float:
    """Return the seconds since a file was written, by the file system's clock: hosts' own may differ."""
    clock = path.with_name(".clock")
    clock.touch()
    return clock.stat().st_mtime - path.stat().st_mtime


def _kill(stalled: Iterable[ProcessId]) -> None:
    for process in stalled:
        runs = process.runs()
        if runs is None:
            raise InputError(
                f"train: found stalled process {process.pid} on {process.host} of an earlier training of this run, "
                "expected none; fix: end it there, then run again"
            )
        if runs:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
