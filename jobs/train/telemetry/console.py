"""The progress of a training, as rank 0 shows it: on the terminal, in TensorBoard, in the training log."""

import logging
import time
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from jobs.metrics import Caveat, EndReason
from jobs.progress import Progress
from jobs.run_dir import RunDir
from jobs.train.telemetry.measure import Measurement
from jobs.train.telemetry.tensorboard import TensorBoardWriter
from jobs.train.telemetry.time_left import TimeLeft
from jobs.words import counted
from models.training.schedules import Rates

log = logging.getLogger("idxtrain")


def report_end(step: int, kept_step: int, reason: EndReason, caveats: Sequence[Caveat]) -> None:
    """Log how a training ended after `step` updates, which model is saved, and what is doubtful about it."""
    if reason == "early-stopping":
        log.info("train: stopped early after step %s: the validation had stopped improving", f"{step:,}")
    if kept_step != step:
        log.info("train: saved the model of step %s, which was best on validation", f"{kept_step:,}")
    for caveat in caveats:
        log.warning("train: %s", caveat.text)


class Console:
    """A context manager around the training: progress on stderr, and all figures in files."""

    def __init__(self, run: RunDir, model: Any, rates: Rates, step: int, left: TimeLeft, names: Sequence[str]) -> None:
        """`step`: the training begins or resumes after this many updates. `names`: of the classes."""
        self._model, self._rates, self._left, self._names = model, rates, left, names
        self._validation = ""  # the last one
        self._writer = TensorBoardWriter(run, step)
        self._writer.graph(model)
        if step == 0:
            self._writer.weights(model, 0)  # what the network begins with: the first place of the sliders
        self._progress = Progress("train", len(rates), "steps")

    def __enter__(self) -> "Console":
        self._progress.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._progress.__exit__(*error)
        self._writer.close()

    def called(self, step: int) -> None:
        """Count a graph call that ended after `step` updates."""
        self._left.trained(step)

    def trained(self, step: int, epoch: int, result: Measurement, images_per_second: float) -> None:
        """Show a measurement after `step` updates: the mean loss since the last one, the accuracy on the last batch.

        That accuracy is with dropout off, as the lecture measures it.
        """
        loss, accuracy = float(result.losses.mean()), result.accuracy
        input_seconds, compute_seconds, allreduce_seconds = result.seconds.max(axis=0)
        left = self._left.seconds(step)
        estimate = {"time": time.time(), "steps": len(self._rates), "seconds_left": left}
        self._writer.measure(
            "train", step, estimate, loss=loss, accuracy=accuracy, images_per_second=images_per_second,
            rate=float(self._rates[step - 1 : step][0]), epoch=epoch, input_seconds=float(input_seconds),
            compute_seconds=float(compute_seconds), allreduce_seconds=float(allreduce_seconds),
        )  # fmt: skip
        detail = f"loss {loss:.4f}, batch accuracy {accuracy:.3f}, {images_per_second:,.0f} images/s{self._validation}"
        self._progress.update(step, detail, left)

    def ended(self, step: int) -> None:
        """Show that the training ended after `step` updates, which may be early."""
        self._progress.ended(step)

    def validated(self, step: int, validation: dict[str, Any], confusion: NDArray[Any] | None) -> None:
        """Show the validation at the end of an epoch. `confusion`: see `jobs.train.validation.Validation`."""
        self._writer.weights(self._model, step)
        if confusion is not None:
            self._writer.confusion(confusion, self._names, step)
        if validation["count"]:
            self._validation = f", validation {validation['accuracy']:.4f}"
            self._writer.measure(
                "validation", step, {"time": time.time()}, accuracy=validation["accuracy"], loss=validation["loss"]
            )
            log.info(
                "train: step %s of %s: validation accuracy %.4f (%s in %d)", f"{step:,}",
                f"{len(self._rates):,}", validation["accuracy"], counted(validation["errors"], "error", "d"),
                validation["count"],
            )  # fmt: skip
        self._left.validated(step)
