"""A rank's sign of life for its launcher: what it does, and since which step."""

import json
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

FOLDER = "IDXTRAIN_HEARTBEATS"  # the folder that the launcher watches; not set: nobody watches
_SECONDS = 1.0

# starting: imports, building the model and its graph. input: waiting for rows. step: in the graph, where it computes
# or waits for the other ranks. checkpoint, validation, finish: as they say.
Phase = Literal["starting", "input", "step", "checkpoint", "validation", "finish"]


class Heartbeat:
    """Writes `rank-N.json` once a second from a thread of its own, which runs on while TensorFlow works.

    A process that is stopped, swapped out or stuck in the kernel writes nothing; one that hangs in its main thread
    goes on writing the same step and phase.
    """

    def __init__(self, rank: int, environment: Mapping[str, str]) -> None:
        self._phase: Phase = "starting"
        self._step = 0
        self._begun = False
        folder = environment.get(FOLDER)
        if folder:
            self._path = Path(folder) / f"rank-{rank}.json"
            self._write()
            threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def tell(self, phase: Phase, step: int) -> None:
        """Note what the rank does now; costs nothing, the thread writes it.

        "starting" lasts until `begun`: the first call builds the graph, which takes as long as it takes.
        """
        if self._begun:
            self._phase, self._step = phase, step

    def begun(self) -> None:
        """Note that the first call of the graph is done."""
        self._begun = True

    def _beat(self) -> None:
        while True:
            time.sleep(_SECONDS)
            try:
                self._write()
            except FileNotFoundError:  # the folder is gone: the launcher is
                return
            except OSError:  # a full disk: there may be room again
                continue

    def _write(self) -> None:
        text = json.dumps({"time": time.time(), "step": self._step, "phase": self._phase, "pid": os.getpid()})
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(text, encoding="utf-8")
        temporary.rename(self._path)
