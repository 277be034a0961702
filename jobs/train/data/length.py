"""The length of a training: pure arithmetic on the config and the number of training rows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jobs.train.config import TrainConfig

if TYPE_CHECKING:
    from jobs.train.data.order import RowOrder

SMALLEST_BATCH = 16  # to which `train.min_steps_per_epoch` may lower the batch
_VALIDATIONS = 20  # of a training in many short epochs, at least


def row_order(config: TrainConfig, shard_rows: Sequence[int], seed: int) -> "RowOrder":
    """Return the order of rows in a training on shards of these sizes, in global batches that fit them."""
    from jobs.train.data.order import RowOrder  # with NumPy, which checks of the config need not wait for

    return RowOrder(
        shard_rows=tuple(shard_rows),
        batch_size=batch_size(config, sum(shard_rows)),
        seed=seed,
        shuffle_shards=config.shuffle_shards,
        slices=config.fixed_slices,
    )


def batch_size(config: TrainConfig, rows: int) -> int:
    """Return the size of the global batch: halved until an epoch of `rows` rows has `min_steps_per_epoch` steps."""
    size = config.batch_size
    while -(-rows // size) < (config.min_steps_per_epoch or 0) and size >= 2 * SMALLEST_BATCH:
        size //= 2
    return size


def total_steps(config: TrainConfig, order: "RowOrder") -> int:
    """Return the steps of a training: whole epochs until there are `min_steps`, bounded by `max_steps`."""
    epochs = None
    if config.epochs is not None:
        epochs = max(config.epochs, -(-(config.min_steps or 0) // order.steps))
    bounds = [config.max_steps, None if epochs is None else epochs * order.steps]
    return min(bound for bound in bounds if bound is not None)


def validation_steps(config: TrainConfig, order: "RowOrder") -> int:
    """Return the steps from one validation to the next: an epoch, or several if they are many and short.

    A thousand epochs of one step would otherwise write a thousand checkpoints, each as long as many steps.
    """
    epochs = -(-total_steps(config, order) // order.steps)
    return order.steps * min(-(-config.log_every // order.steps), max(1, epochs // _VALIDATIONS))


def images_seen(order: "RowOrder", steps: int) -> int:
    """Return how many images the first `steps` steps train on."""
    epochs, rest = divmod(steps, order.steps)
    return epochs * order.rows + min(rest * order.batch_size, order.rows)
