"""The length of a training: pure arithmetic."""

from jobs.train.config import TrainConfig
from jobs.train.data.order import RowOrder


def total_steps(config: TrainConfig, order: RowOrder) -> int:
    """Return the steps of a training, by whichever of its two bounds comes first."""
    bounds = [config.max_steps, config.epochs * order.steps if config.epochs else None]
    return min(bound for bound in bounds if bound is not None)


def images_seen(order: RowOrder, steps: int) -> int:
    """Return how many images the first `steps` steps train on."""
    epochs, rest = divmod(steps, order.steps)
    return epochs * order.rows + min(rest * order.batch_size, order.rows)
