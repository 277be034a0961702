"""The flight recorder: where each rank's time goes, graph call by graph call."""

import json
from dataclasses import asdict
from pathlib import Path

from jobs.flight_log import Flight


class FlightRecorder:
    """Writes a rank's flights to `logs/flight.rank-N.jsonl`, a JSON line per graph call."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def record(self, flight: Flight) -> None:
        """Write one graph call."""
        self._file.write(json.dumps({key: round(value, 6) for key, value in asdict(flight).items()}) + "\n")
