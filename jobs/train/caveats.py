"""What is doubtful about a finished training: few updates, or a loss that was still falling."""

from collections.abc import Mapping
from pathlib import Path
from statistics import mean

from jobs import training_log
from jobs.metrics import Caveat, EndReason
from jobs.train.config import TrainConfig
from jobs.training_log import Kind
from jobs.words import counted

# The shortest recipe, `fast`, trains MNIST with 645.
_FEW_STEPS = 500
# Nats. On MNIST, the last epoch of `fast` takes 0.01 to 0.02 off the validation loss.
_FALL = 0.05


def training_caveats(curve: Path, steps: int, config: TrainConfig, reason: EndReason = "length") -> list[Caveat]:
    """Return the caveats of a training that ended after `steps` updates for a reason. `curve`: its training log.

    The loss is still falling if the last validation is 0.05 nats below all those in the first nine tenths of the steps.
    If there are none, the training loss decides: the mean of the last tenth against that of the tenth before.
    """
    option = "train.min_steps or train.epochs"
    if reason == "early-stopping":
        option = "train.early_stopping"
    elif config.max_steps is not None and steps >= config.max_steps:
        option = "train.max_steps"
    fix = f"raise {option} to train longer"
    caveats = []
    if steps < _FEW_STEPS:
        text = f"the model was trained for only {counted(steps, 'update')}; {fix}"
        caveats.append(Caveat(kind="few-updates", text=text, figures={"steps": steps}))
    losses = _before_and_at_the_end(curve, steps)
    if losses is not None and losses[0] - losses[1] >= _FALL:
        text = f"the loss was still falling when training ended, from {losses[0]:.2f} to {losses[1]:.2f}; {fix}"
        figures = dict(zip(("loss_before", "loss_at_end"), losses, strict=True))
        caveats.append(Caveat(kind="loss-still-falling", text=text, figures=figures))
    return caveats


def _before_and_at_the_end(curve: Path, steps: int) -> tuple[float, float] | None:
    """Return the loss before the last tenth of the training, and at its end; None if the log has too few."""
    validation = _losses(curve, "validation")
    before = [loss for step, loss in validation.items() if step <= 0.9 * steps]
    if before and steps in validation:
        return min(before), validation[steps]
    training = _losses(curve, "train")
    before, last = (
        [loss for step, loss in training.items() if low * steps < step <= (low + 0.1) * steps] for low in (0.8, 0.9)
    )
    return (mean(before), mean(last)) if before and last else None


def _losses(curve: Path, kind: Kind) -> Mapping[int, float]:
    """Return the losses of a kind by step."""
    entries = (entry for entry in training_log.read(curve) if entry["kind"] == kind)
    return {entry["step"]: entry["loss"] for entry in entries if isinstance(entry.get("loss"), int | float)}
