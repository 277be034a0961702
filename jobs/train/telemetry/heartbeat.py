"""A rank's sign of life for its launcher: which process it is, what it does since which step, and how far it is."""

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

FOLDER = "IDXTRAIN_HEARTBEATS"  # the folder that the launcher watches; not set: nobody watches
_SECONDS = 1.0

# starting: imports, building the model and its graph. input: waiting for rows. step: in the graph, where it computes
# or waits for the other ranks. checkpoint, validation, finish: as they say.
Phase = Literal["starting", "input", "step", "checkpoint", "validation", "finish"]


class Heartbeat:
    """Writes `rank-N.json` once a second from a thread of its own, which runs on while TensorFlow works.

    A process that is stopped, swapped out or stuck in the kernel writes nothing; one that hangs in its main thread
    goes on writing the same step, phase and progress.

    step: see `tell`. phase: see `Phase`. progress: a count that grows while a phase goes on. longest: the most seconds
    that passed so far between two signs of progress in this phase. host, machine, pid, began: see
    `jobs.process.ProcessId`.
    """

    def __init__(self, rank: int, environment: Mapping[str, str], growing: Sequence[Path] = ()) -> None:
        """`growing`: folders in which a file that is being written is a sign of progress."""
        self._phase: Phase = "starting"
        self._step = self._progress = 0
        self._begun = False  # until then all phases are told as "starting"
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

    def tell(self, phase: Phase, step: int) -> None:
        """Note what the rank does now, after `step` updates; costs two microseconds, the thread writes it.

        "starting" lasts until `begun`: the first call builds the graph, which takes as long as it takes.
        """
        self._move()
        self._phase, self._step = phase, step

    def progressed(self, phase: Phase) -> None:
        """Note that the rank is a piece further in a phase, if it is in that; any thread may call it."""
        if self._phase == phase:
            self._move()

    def _move(self) -> None:
        now = time.monotonic()
        self._longest[self._phase] = max(self._longest.get(self._phase, 0.0), now - self._moved)
        self._moved = now
        self._progress += 1

    def begun(self) -> None:
        """Note that the first call of the graph is done, and have it written at once: only a start may be silent."""
        if not self._begun:
            self._begun = True
            self._wake.set()

    def _beat(self) -> None:
        while True:
            self._wake.wait(_SECONDS)
            self._wake.clear()
            try:
                self._write()
            except OSError:  # a full disk: there may be room again
                continue

    def _write(self) -> None:
        phase = self._phase if self._begun else "starting"
        beat = {
            "time": time.time(),
            "step": self._step if self._begun else 0,
            "phase": phase,
            "progress": self._progress + self._written(phase),
            "longest": round(self._longest.get(phase, 0.0), 1),
        }
        temporary = self._path.with_suffix(".tmp")
        with self._writing:
            temporary.write_text(json.dumps(beat | self._process), encoding="utf-8")
            temporary.rename(self._path)

    def _written(self, phase: str) -> int:
        """Return the size of what is being written, in bytes, in the phases that wait for it."""
        if phase not in ("checkpoint", "finish"):
            return 0
        size = 0
        for path in (path for folder in self._growing for path in unfinished(folder)):
            with suppress(OSError):  # it has its name by now
                size += path.stat().st_size
        return size
