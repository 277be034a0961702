"""What a training will read and do, told before anything starts: from the archives' headers and the config alone."""

from dataclasses import dataclass
from pathlib import Path

from jobs.dataset import SPLITS
from jobs.errors import InputError
from jobs.prepare.plan import DatasetPlan, plan_dataset
from jobs.run_dir import Work
from jobs.train.length import images_seen, total_steps
from jobs.train.order import RowOrder, share
from jobs.train.preflight import check_config
from pipelines.config import Config


@dataclass(frozen=True)
class RankPlan:
    """One rank in the first epoch: rows it trains on, rows of its largest batch, shards it reads, validation rows."""

    rank: int
    rows: int
    rows_a_step: int
    shards: int
    validation_rows: int


@dataclass(frozen=True)
class TrainingPlan:
    """The numbers of a training."""

    dataset: DatasetPlan
    row_shape: tuple[int, ...]
    batch_size: int
    last_batch: int
    steps_an_epoch: int
    steps: int
    images: int
    ranks: tuple[RankPlan, ...]


def plan_training(config: Config, work: Work, ranks: int) -> TrainingPlan:
    """Plan a training on that many ranks; raise InputError where it cannot be."""
    train_rows, test_rows, row_shape = _archive_sizes(config, work)
    dataset = plan_dataset(config.prepare, train_rows, test_rows, row_shape)
    shard_rows = tuple(shard.rows for shard in dataset.shards if shard.split == "train")
    train = config.train
    check_config(train, ranks)
    order = RowOrder(shard_rows, train.batch_size, config.seed, train.shuffle_shards, train.fixed_slices)
    steps = total_steps(train, order)
    return TrainingPlan(
        dataset,
        row_shape,
        train.batch_size,
        order.batch_rows(order.steps - 1),
        order.steps,
        steps,
        images_seen(order, steps),
        tuple(_rank(order, dataset, rank, ranks) for rank in range(ranks)),
    )


def _rank(order: RowOrder, dataset: DatasetPlan, rank: int, ranks: int) -> RankPlan:
    rows = order.epoch(0).rank_rows(0, order.steps, rank, ranks)
    first, last = order.share(order.batch_rows(0), rank, ranks)
    low, high = share(dataset.validation_rows, rank, ranks)
    return RankPlan(rank, len(rows), last - first, order.shards_of(rows), high - low)


def _archive_sizes(config: Config, work: Work) -> tuple[int, int, tuple[int, ...]]:
    """Rows of the two image archives and a row's shape: from the archives' headers, else from the catalog."""
    from jobs.fetch.catalog import CATALOG
    from jobs.fetch.names import find
    from jobs.prepare import idx

    known = CATALOG.get(config.fetch.dataset)
    folder = Path(config.fetch.data) if config.fetch.data else work.archives / config.fetch.dataset
    found = find(folder) if config.fetch.data or folder.is_dir() else {}
    if "train_images" in found and "test_images" in found:
        train, test = (idx.read_header(found[role]) for role in ("train_images", "test_images"))
        return train.rows, test.rows, train.row_shape
    if known is None:
        raise InputError(f"{folder}: found no archives of {config.fetch.dataset}; give their folder as --data")
    train_shape, test_shape = known.archives["train_images"].shape, known.archives["test_images"].shape
    return train_shape[0], test_shape[0], train_shape[1:]


def lines(plan: TrainingPlan) -> list[str]:
    """Return the plan as lines of text."""
    shards = {split: [s.rows for s in plan.dataset.shards if s.split == split] for split in SPLITS}
    text = [f"images      {' × '.join(map(str, plan.row_shape))}"]
    for split in SPLITS:
        rows = shards[split]
        each = f" of {_span(rows)} rows" if rows else ""
        text.append(f"{split:<11} {sum(rows):,} rows in {len(rows)} shards{each}")
    last = f", the last on {plan.last_batch} rows" if plan.last_batch != plan.batch_size else ""
    text += [
        f"epoch       {plan.steps_an_epoch:,} steps on global batches of {plan.batch_size}{last}",
        f"training    {plan.steps:,} steps, {plan.images:,} images",
        "",
        _ROW.format("rank", "rows an epoch", "rows a step", "steps an epoch", "shards read", "validation rows"),
    ]
    text += [
        _ROW.format(r.rank, r.rows, r.rows_a_step, plan.steps_an_epoch, r.shards, r.validation_rows) for r in plan.ranks
    ]
    total = sum(rank.rows for rank in plan.ranks)
    return [*text, _ROW.format("all", total, plan.batch_size, "", "", plan.dataset.validation_rows)]


_ROW = "{:>4}  {:>13}  {:>11}  {:>14}  {:>11}  {:>15}"


def _span(rows: list[int]) -> str:
    return f"{min(rows):,}" if min(rows) == max(rows) else f"{min(rows):,} to {max(rows):,}"
