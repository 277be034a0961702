"""Which rank has stalled, by the heartbeats that ranks write: see `jobs.train.heartbeat`."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_MISSED_BEATS_SECONDS = 4.0  # a beat comes every second
_SLOW_START_SECONDS = 600.0  # imports from a cold network file system, the first build of the graph


class Watch:
    """Looks at the heartbeats of a gang. Times are by this process's clock, so that hosts' clocks may differ."""

    def __init__(self, folder: Path, ranks: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._ranks, self._seconds, self._clock = folder, ranks, seconds, clock
        now = clock()
        self._beat: dict[int, tuple[Any, float]] = dict.fromkeys(range(ranks), (None, now))
        self._moved: dict[int, tuple[Any, float]] = dict.fromkeys(range(ranks), (None, now))

    def step(self) -> int:
        """Return the furthest step that a rank has told of."""
        return max((beat.get("step", 0) for beat in self._read().values()), default=0)

    def step_of(self, rank: int) -> int:
        """Return the last step that a rank has told of."""
        return int(self._read().get(rank, {}).get("step", 0))

    def stalled(self) -> tuple[int, str] | None:
        """Return a rank that has stalled and in which way; None where all is well."""
        now, beats = self._clock(), self._read()
        for rank in range(self._ranks):
            beat = beats.get(rank)
            if beat != self._beat[rank][0]:
                self._beat[rank] = beat, now
            progress = (beat["step"], beat["phase"]) if beat else None
            if progress != self._moved[rank][0]:
                self._moved[rank] = progress, now
        # A rank without a heartbeat is stopped or gone. The others merely wait for it, alive.
        silent = [r for r in beats if now - self._beat[r][1] > self._seconds]
        if silent:
            return silent[0], f"gave no sign of life for {self._seconds:g} s"
        return self._hanging(now, beats)

    def _hanging(self, now: float, beats: dict[int, dict[str, Any]]) -> tuple[int, str] | None:
        phases = [beats.get(rank, {}).get("phase", "starting") for rank in range(self._ranks)]
        limit = max(self._seconds, _SLOW_START_SECONDS) if "starting" in phases else self._seconds
        if any(now - since <= limit for _, since in self._moved.values()):
            return None  # as long as one rank moves on, the others will
        silence = {rank: now - self._beat[rank][1] for rank in beats}
        quietest = max(silence, key=lambda rank: silence[rank], default=0)
        if silence.get(quietest, 0.0) > _MISSED_BEATS_SECONDS:
            return quietest, f"gave no sign of life for {silence[quietest]:.0f} s"
        # Those in the graph wait for one that has not come there, if there is one.
        rank = next((rank for rank, phase in enumerate(phases) if phase != "step"), 0)
        return rank, f"was at the same point ({phases[rank]}) for {limit:g} s"

    def _read(self) -> dict[int, dict[str, Any]]:
        beats = {}
        for rank in range(self._ranks):
            try:
                beat = json.loads((self._folder / f"rank-{rank}.json").read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            beats[rank] = beat
        return beats
