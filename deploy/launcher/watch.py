"""Which rank has stalled, by the heartbeats that ranks write: see `jobs.train.telemetry.heartbeat`."""

import json
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

_MISSED_BEATS_SECONDS = 4.0  # a beat comes every second
# What may show no progress for longer: imports from a cold network file system and the first build of the graph; the
# flush of a large checkpoint to a slow disk.
_SLOW_PHASES, _SLOW_SECONDS = ("starting", "checkpoint", "finish"), 600.0
_PATIENCE = 3.0  # a call of the graph may take so many times as long as the longest before it

Beat = dict[str, Any]


class Watch:
    """Looks at the heartbeats of a gang. Times are by this process's clock, so that hosts' clocks may differ.

    A rank has stalled when it gives no sign of life for `seconds`. All ranks have stalled, as they wait for each
    other, when none shows progress (another step, phase or count) within its limit: `seconds`, or three times the
    longest that the same phase of this rank went without before, if that is more; 10 minutes at least in phases that
    wait for a disk.
    """

    def __init__(
        self, folder: Path, ranks: Iterable[int], seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder, self._ranks, self._seconds, self._clock = folder, tuple(ranks), seconds, clock
        now = clock()
        self._beat: dict[int, tuple[Any, float]] = dict.fromkeys(self._ranks, (None, now))
        self._moved: dict[int, tuple[Any, float]] = dict.fromkeys(self._ranks, (None, now))

    def step(self) -> int:
        """Return the furthest step that a rank has told of."""
        return max((beat.get("step", 0) for beat in self._read().values()), default=0)

    def stalled(self, ended: Collection[int] = ()) -> tuple[int, str] | None:
        """Return a rank that has stalled and in which way; None where all is well. `ended`: ranks that have ended."""
        alive = [rank for rank in self._ranks if rank not in ended]
        now, beats = self._clock(), {rank: beat for rank, beat in self._read().items() if rank in alive}
        for rank in alive:
            beat = beats.get(rank)
            if beat != self._beat[rank][0]:
                self._beat[rank] = beat, now
            progress = (beat["step"], beat["phase"], beat["progress"]) if beat else None
            if progress != self._moved[rank][0]:
                self._moved[rank] = progress, now
        # A rank without a heartbeat is stopped or gone. The others merely wait for it, alive.
        for rank, beat in beats.items():
            # An import may let no other thread run.
            limit = max(self._seconds, _SLOW_SECONDS) if beat["phase"] == "starting" else self._seconds
            if now - self._beat[rank][1] > limit:
                return rank, f"gave no sign of life for {limit:g} s"
        return self._hanging(now, alive, beats)

    def _limit(self, beat: Beat | None) -> float:
        """Return how long a rank may go without progress."""
        if beat is None:
            return max(self._seconds, _SLOW_SECONDS)
        slow = _SLOW_SECONDS if beat["phase"] in _SLOW_PHASES else 0.0
        return max(self._seconds, slow, _PATIENCE * beat["longest"])

    def _hanging(self, now: float, alive: Sequence[int], beats: dict[int, Beat]) -> tuple[int, str] | None:
        limits = {rank: self._limit(beats.get(rank)) for rank in alive}
        if any(now - self._moved[rank][1] <= limits[rank] for rank in alive):
            return None  # as long as one rank moves on, the others will
        silence = {rank: now - self._beat[rank][1] for rank in beats}
        quietest = max(silence, key=lambda rank: silence[rank], default=0)
        if silence.get(quietest, 0.0) > _MISSED_BEATS_SECONDS:
            return quietest, f"gave no sign of life for {silence[quietest]:.0f} s"
        # Those in the graph wait for one that has not come there, if there is one.
        phases = {rank: beats[rank]["phase"] if rank in beats else "starting" for rank in alive}
        rank = next((rank for rank, phase in phases.items() if phase != "step"), alive[0])
        return rank, f"was at the same point ({phases[rank]}) for {limits[rank]:g} s"

    def _read(self) -> dict[int, Beat]:
        beats = {}
        for rank in self._ranks:
            try:
                beat = json.loads((self._folder / f"rank-{rank}.json").read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            beats[rank] = beat
        return beats
