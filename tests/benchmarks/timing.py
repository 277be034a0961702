"""Run a contender, a fresh process that prints one JSON line: its wall seconds, its memory, and its figures."""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

_SAMPLE_SECONDS = 0.1
_STDERR = 2000  # of a failed process


@dataclass(frozen=True)
class Done:
    """A process that succeeded. `seconds`: wall time with start-up. `peak_bytes`: see `run`. `figures`: its JSON."""

    seconds: float
    peak_bytes: int
    figures: dict[str, Any]


def run(command: Sequence[str], environment: Mapping[str, str] | None = None, watch_memory: bool = False) -> Done:
    """Run a process to its end; raise RuntimeError with the end of its stderr if it fails.

    With `watch_memory`, the peak is the largest sum of the resident memory of the process and all its descendants,
    sampled ten times a second. Shared pages count once per process, so the true peak is lower.
    """
    with tempfile.TemporaryFile("w+") as errors:
        begin = time.perf_counter()
        process = subprocess.Popen(
            command,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        peak = _watch(process) if watch_memory else 0
        output, _ = process.communicate()
        seconds = time.perf_counter() - begin
        if process.returncode:
            errors.seek(0)
            raise RuntimeError(f"{' '.join(command)}: exit code {process.returncode}\n{errors.read()[-_STDERR:]}")
    return Done(seconds, peak, _json_line(output))


def _watch(process: subprocess.Popen[str]) -> int:
    peak, root = 0, psutil.Process(process.pid)
    while process.poll() is None:
        peak = max(peak, _resident(root))
        time.sleep(_SAMPLE_SECONDS)
    return peak


def _resident(root: psutil.Process) -> int:
    total = 0
    try:
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in family:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:  # it has ended
            continue
    return total


def _json_line(output: str) -> dict[str, Any]:
    """Return the last JSON object on a line of its own; a launcher may put the rank before it."""
    for line in reversed(output.splitlines()):
        _, brace, rest = line.partition("{")
        if brace and rest.rstrip().endswith("}"):
            figures: dict[str, Any] = json.loads(brace + rest)
            return figures
    return {}
