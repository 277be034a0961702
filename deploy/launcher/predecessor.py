"""Processes of an earlier launcher of the same run: a new one waits for them, so that never two train at once.

A launcher that is killed leaves its ranks behind. They stop by themselves, but first come to the end of their current
call of the graph and write a checkpoint. Whoever killed it may start it again before that. So a launcher puts itself
into `launcher.json` of the run's heartbeats, beside its ranks' files, for as long as it lives, and looks there first.
The run's lock does not tell: its owner is a process above the launcher, which may have been the one killed.
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
_STALE_SECONDS = 60.0  # a file of another machine's process that is older is that of a dead one


@contextmanager
def succeeded(run: RunDir, stall_seconds: float, is_asked: Callable[[], bool]) -> Iterator[None]:
    """Wait until no process of an earlier launcher is left, then be this run's launcher.

    Ranks of a dead launcher that stall (see `deploy.launcher.watch`) are ended. Returns early where this process
    `is_asked` to stop. Raises InputError for a process that neither ends nor can be ended.
    """
    folder = run.heartbeats
    _wait(folder, stall_seconds, is_asked)
    if is_asked():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    launcher = folder / _LAUNCHER
    write_json(launcher, asdict(this_process()))
    over = threading.Event()
    threading.Thread(target=_refresh, args=(launcher, over), name="launcher", daemon=True).start()
    try:
        yield
    finally:
        over.set()
        launcher.unlink(missing_ok=True)


def clear(run: RunDir) -> None:
    """Remove what earlier ranks, this launcher's and dead ones', left in the heartbeats."""
    for path in run.heartbeats.iterdir():
        if path.name != _LAUNCHER:
            path.unlink(missing_ok=True)


def _refresh(launcher: Path, over: threading.Event) -> None:
    while not over.wait(_REFRESH_SECONDS):
        with suppress(OSError):
            os.utime(launcher)


def _wait(folder: Path, stall_seconds: float, is_asked: Callable[[], bool]) -> None:
    if not (folder / _LAUNCHER).exists():  # it ended in order, after its ranks
        return
    left: Mapping[Path, ProcessId] = {}
    watch = Watch(folder, (), stall_seconds)
    while (now := _left(folder)) and not is_asked():
        if not left:
            who = ", ".join(f"{process.pid} on {process.host}" for process in now.values())
            print(f"train: waiting for an earlier training of this run to stop: process {who}", file=sys.stderr)
        if left != now:  # Watch takes all its ranks for alive
            ranks = [int(path.stem.removeprefix("rank-")) for path in now if _is_rank(path)]
            watch = Watch(folder, ranks, stall_seconds)
        left = now
        if all(_is_rank(path) for path in left) and watch.stalled():  # a launcher that lives sees to its ranks itself
            _end(left.values())
        time.sleep(_POLL_SECONDS)


def _is_rank(path: Path) -> bool:
    return path.name != _LAUNCHER


def _left(folder: Path) -> dict[Path, ProcessId]:
    """Return the processes that still run, by their files."""
    found = {}
    for path in [folder / _LAUNCHER, *sorted(folder.glob("rank-*.json"))]:
        try:
            raw = read_object(path, "remove it")
            process = ProcessId(**{name: raw[name] for name in ("host", "machine", "pid", "began")})
            runs = process.runs()
            is_left = _age(path) < _STALE_SECONDS if runs is None else runs
        except (InputError, OSError, KeyError, TypeError):  # gone by now, or torn by a power cut, which ended them all
            continue
        if is_left:
            found[path] = process
    return found


def _age(path: Path) -> float:
    """Return the seconds since a file was written, by the file system's clock: hosts' own may differ."""
    clock = path.with_name(".clock")
    clock.touch()
    return clock.stat().st_mtime - path.stat().st_mtime


def _end(stalled: Iterable[ProcessId]) -> None:
    for process in stalled:
        runs = process.runs()
        if runs is None:
            raise InputError(
                f"train: process {process.pid} on {process.host} of an earlier training of this run has stalled; "
                "end it there, then try again"
            )
        if runs:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
