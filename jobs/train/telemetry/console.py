"""What a training shows and writes while it goes: speed, progress, curves, and on request which rows it trained on."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from jobs.progress import Progress
from jobs.run_dir import RunDir
from jobs.train.data.feed import Call
from jobs.train.telemetry.measure import Measurement
from jobs.train.telemetry.tensorboard import Board
from models.training.schedules import Rates

log = logging.getLogger("idxtrain")


class Meter:
    """Training speed, over all measurements but the first, in which TensorFlow builds its graph."""

    def __init__(self) -> None:
        self._measurements = 0
        self._images = 0
        self._seconds = 0.0
        self._last = 0.0

    def add(self, images: int, seconds: float) -> None:
        """Count a measurement: images of all ranks, wall seconds."""
        self._last = images / seconds
        self._measurements += 1
        if self._measurements > 1:
            self._images += images
            self._seconds += seconds

    @property
    def rate(self) -> float:
        """Images a second of all ranks together; of the first measurement where there was no other."""
        return round(self._images / self._seconds if self._seconds else self._last, 1)


class Console:
    """Rank 0's view of the training: a progress bar, TensorBoard, the curve. A context manager."""

    def __init__(self, run: RunDir, model: Any, rates: Rates, step: int) -> None:
        self._model, self._rates = model, rates
        self._board = Board(run, step)
        self._board.graph(model)
        self._progress = Progress("train", len(rates), "steps")

    def __enter__(self) -> "Console":
        self._progress.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._progress.__exit__(*error)
        self._board.close()

    def trained(self, step: int, epoch: int, result: Measurement, images_per_second: float) -> None:
        """Tell about one measurement, after `step` updates."""
        loss, accuracy = float(result.losses.mean()), result.accuracy
        waiting, computing, summing = result.times.max(axis=0)
        self._board.measure(
            "train", step, loss=loss, accuracy=accuracy, images_per_second=images_per_second,
            rate=float(self._rates[step - 1 : step][0]), epoch=epoch,
            input_seconds=float(waiting), compute_seconds=float(computing), allreduce_seconds=float(summing),
        )  # fmt: skip
        self._progress.update(
            step, f"loss {loss:.4f}, training accuracy {accuracy:.3f}, {images_per_second:,.0f} images/s"
        )

    def validated(self, step: int, validation: dict[str, Any]) -> None:
        """Tell about the validation at the end of an epoch."""
        self._board.filters(self._model, step)
        if validation["count"]:
            self._board.measure("validation", step, accuracy=validation["accuracy"], loss=validation["loss"])
            log.info(
                "train: step %d: validation accuracy %.4f (%d errors in %d)",
                step, validation["accuracy"], validation["errors"], validation["count"],
            )  # fmt: skip


class Audit:
    """Which archive rows one rank trained on, a JSON line a step: the proof that no row is lost or seen twice."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        self._file = path.open("a", encoding="utf-8")

    def trained(self, call: Call) -> None:
        """Write the rows of each of a call's steps."""
        for number, rows in enumerate(np.split(call.indices, call.steps)):
            self._file.write(json.dumps({"step": call.first_step + number, "rows": rows.tolist()}) + "\n")
        self._file.flush()
