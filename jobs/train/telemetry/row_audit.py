"""The row audit: which archive rows a rank trained on, the proof that no row is lost or seen twice."""

import json
from pathlib import Path

import numpy as np

from jobs.train.data.calls import GraphCall


class RowAudit:
    """Writes a rank's rows to `logs/rows.rank-N.jsonl`, a JSON line per step."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        self._file = path.open("a", encoding="utf-8")

    def record(self, call: GraphCall) -> None:
        """Write the rows of each step of a graph call."""
        for number, rows in enumerate(np.split(call.indices, call.steps)):
            self._file.write(json.dumps({"step": call.first_step + number, "rows": rows.tolist()}) + "\n")
        self._file.flush()
