"""A rank's heartbeat for its launcher: its process, its phase, its step, and its progress in the phase."""

import json
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from jobs.files import unfinished
from jobs.process import this_process

FOLDER = "IDXTRAIN_HEARTBEATS"  # names the folder that the launcher watches; unset if no launcher does
_SECONDS = 2.0  # between two heartbeats: each costs a shared file system a file and a renaming

# starting: imports, building the model and its graph. input: waiting for rows. step: in a graph call, computing or
# waiting for other ranks. finish: writing the model.
Phase = Literal["starting", "input", "step", "checkpoint", "validation", "finish"]


class Heartbeat:
    """Writes `rank-N.json` every two seconds, in a thread of its own, which runs while TensorFlow works.

    A process that is stopped, swapped out or stuck in the kernel writes nothing. One whose main thread hangs keeps
    writing the same step, phase and progress.

    Keys: `time` (Unix seconds), `step` and `phase` (see `enter`), `progress` (grows while a phase proceeds), `longest`
    (the most seconds so far between two signs of progress in this phase), and those of `jobs.process.ProcessId`.
    """

    def __init__(self, rank: int, environment: Mapping[str, str], growing: Sequence[Path] = ()) -> None:
        """`growing`: folders where a growing unfinished file is a sign of progress."""
        self._phase: Phase = "starting"
        self._step = self._progress = 0
        self._begun = False  # until then, the phase is written as "starting"
        self._growing = growing
        self._longest: dict[str, float] = {}
        self._moved = time.monotonic()
        self._wake, self._writing = threading.Event(), threading.Lock()
        folder = environment.get(FOLDER)
        if folder:
            self._path = Path(folder) / f"rank-{rank}.json"
            self._process = asdict(this_process())
            self._write()
            threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def enter(self, phase: Phase, step: int) -> None:
        """Enter a phase after `step` updates. Takes 2 µs; the thread writes it.

        "starting" lasts until `begun`, as the first graph call builds the graph, which may take minutes.
        """
        self._move()
        self._phase, self._step = phase, step

    def progressed(self, phase: Phase) -> None:
        """Count progress if the rank is in this phase. Any thread may call it."""
        if self._phase == phase:
            self._move()

    def _move(self) -> None:
        now = time.monotonic()
        self._longest[self._phase] = max(self._longest.get(self._phase, 0.0), now - self._moved)
        self._moved = now
        self._progress += 1

    def begun(self) -> None:
        """Mark the first graph call as done, and write it at once: only a start may be silent for long."""
        if not self._begun:
            self._begun = True
            self._wake.set()

    def _beat(self) -> None:
        while True:
            self._wake.wait(_SECONDS)
            self._wake.clear()
            try:
                self._write()
            except OSError:  # e.g. a full disk, which may have room again
                continue

    def _write(self) -> None:
        with self._writing:  # also while the beat is composed: a newer one is never replaced by an older one
            phase = self._phase if self._begun else "starting"
            beat = {
                "time": time.time(),
                "step": self._step if self._begun else 0,
                "phase": phase,
                "progress": self._progress + self._written(phase),
                "longest": round(self._longest.get(phase, 0.0), 1),
            }
            temporary = self._path.with_suffix(".tmp")
            temporary.write_text(json.dumps(beat | self._process), encoding="utf-8")
            temporary.rename(self._path)

    def _written(self, phase: str) -> int:
        """Return the bytes of unfinished files, in the phases that wait for them; else 0."""
        if phase not in ("checkpoint", "finish"):
            return 0
        size = 0
        for path in (path for folder in self._growing for path in unfinished(folder)):
            with suppress(OSError):  # finished and renamed by now
                size += path.stat().st_size
        return size
