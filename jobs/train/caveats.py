"""What is doubtful about a finished training: too few updates, or a loss that was still falling."""

from pathlib import Path
from typing import Any

from jobs import training_log
from jobs.metrics import Caveat
from jobs.train.config import TrainConfig

# The shortest recipe on MNIST has 645 updates.
_FEW_STEPS = 500
# Between the last validation and the last one in the first nine tenths of the training, the validation loss fell by at
# least this many nats.
_FALL = 0.05


def training_caveats(curve: Path, steps: int, config: TrainConfig) -> list[Caveat]:
    """Return the caveats of a training that ended after `steps` updates. `curve`: its training log."""
    fix = "train.max_steps" if config.max_steps is not None and steps >= config.max_steps else "train.min_steps"
    caveats = []
    if steps < _FEW_STEPS:
        text = f"only {steps:,} updates; to train longer, raise {fix}"
        caveats.append(Caveat(kind="few-updates", text=text, figures={"steps": steps}))
    before, after = _validation_losses(list(training_log.read(curve)), steps)
    if before is not None and after is not None and before - after >= _FALL:
        text = f"the loss was still falling at the end ({before:.3f}, then {after:.3f}); to train longer, raise {fix}"
        figures = {"loss_before": before, "loss_after": after}
        caveats.append(Caveat(kind="loss-still-falling", text=text, figures=figures))
    return caveats


def _validation_losses(entries: list[dict[str, Any]], steps: int) -> tuple[float | None, float | None]:
    losses = {
        entry["step"]: float(entry["loss"])
        for entry in entries
        if entry["kind"] == "validation" and isinstance(entry.get("loss"), int | float)
    }
    before = [step for step in losses if step <= 0.9 * steps]
    return (losses[max(before)] if before else None), losses.get(steps)
