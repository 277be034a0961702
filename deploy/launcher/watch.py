"""Find the rank that has stalled, by the heartbeats that ranks write: see `jobs.train.telemetry.heartbeat`."""

import json
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

_MISSED_BEATS_SECONDS = 7.0  # a rank writes a heartbeat every two seconds
# Phases that may show no progress for longer: imports from a cold network file system and the first build of the
# graph; the flush of a large checkpoint to a slow disk.
_SLOW_PHASES, _SLOW_SECONDS = ("starting", "checkpoint", "finish"), 600.0
_PATIENCE = 3.0  # how many times longer than its longest pause so far a phase may pause

Beat = dict[str, Any]


class Stall(NamedTuple):
    """A rank that has stalled, and how it shows: the rest of a sentence that begins with the rank."""

    rank: int
    reason: str


class Watch:
    """Watches the heartbeats of one attempt's ranks. Times are this process's, so that hosts' clocks may differ.

    A rank has stalled if its heartbeat has not changed for `seconds`. All ranks have stalled, since they wait for each
    other, if none makes progress (another step, phase or count) within its limit. The limit is `seconds`, or three
    times the rank's longest pause in this phase so far if that is more. In phases that wait for a disk it is at least
    10 minutes.
    """

    def __init__(
        self, folder: Path, ranks: Iterable[int], seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder, self._ranks, self._seconds, self._clock = folder, tuple(ranks), seconds, clock
        now = clock()
        # By rank: the last value seen, and when it was first seen.
        self._beat: dict[int, tuple[Any, float]] = dict.fromkeys(self._ranks, (None, now))
        self._progress: dict[int, tuple[Any, float]] = dict.fromkeys(self._ranks, (None, now))

    def step(self) -> int:
        """Return the furthest step in any rank's heartbeat; 0 without one."""
        return max((beat.get("step", 0) for beat in self._read().values()), default=0)

    def stall(self, ended: Collection[int] = ()) -> Stall | None:
        """Return a rank that has stalled, or None. `ended`: ranks that have ended, from which no heartbeat is due."""
        running = [rank for rank in self._ranks if rank not in ended]
        now, beats = self._clock(), {rank: beat for rank, beat in self._read().items() if rank in running}
        for rank in running:
            beat = beats.get(rank)
            if beat != self._beat[rank][0]:
                self._beat[rank] = beat, now
            progress = (beat["step"], beat["phase"], beat["progress"]) if beat else None
            if progress != self._progress[rank][0]:
                self._progress[rank] = progress, now
        # A rank without a heartbeat is suspended or gone. The other ranks merely wait for it.
        for rank, beat in beats.items():
            # An import may let no other thread run.
            limit = max(self._seconds, _SLOW_SECONDS) if beat["phase"] == "starting" else self._seconds
            if now - self._beat[rank][1] > limit:
                return Stall(rank, f"sent no heartbeat for {limit:g} s")
        return self._hanging(now, running, beats)

    def _limit(self, beat: Beat | None) -> float:
        """Return how many seconds a rank may go without progress."""
        if beat is None:
            return max(self._seconds, _SLOW_SECONDS)
        slow = _SLOW_SECONDS if beat["phase"] in _SLOW_PHASES else 0.0
        return max(self._seconds, slow, _PATIENCE * beat["longest"])

    def _hanging(self, now: float, running: Sequence[int], beats: dict[int, Beat]) -> Stall | None:
        limits = {rank: self._limit(beats.get(rank)) for rank in running}
        if any(now - self._progress[rank][1] <= limits[rank] for rank in running):
            return None  # while one rank makes progress, the others will
        silence = {rank: now - self._beat[rank][1] for rank in beats}
        quietest = max(silence, key=lambda rank: silence[rank], default=0)
        if silence.get(quietest, 0.0) > _MISSED_BEATS_SECONDS:
            return Stall(quietest, f"sent no heartbeat for {silence[quietest]:.0f} s")
        # Ranks in the graph wait for one that has not entered it, if there is one.
        phases = {rank: beats[rank]["phase"] if rank in beats else "starting" for rank in running}
        rank = next((rank for rank, phase in phases.items() if phase != "step"), running[0])
        return Stall(rank, f"made no progress in phase {phases[rank]} for {limits[rank]:g} s")

    def _read(self) -> dict[int, Beat]:
        beats = {}
        for rank in self._ranks:
            try:
                beat = json.loads((self._folder / f"rank-{rank}.json").read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            beats[rank] = beat
        return beats
