"""The plan of a training, from the archives' headers, small label archives and the config, before anything starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from jobs import segments
from jobs.archive import role_of_key
from jobs.dataset import SPLITS, PixelType, Split
from jobs.errors import InputError
from jobs.prepare.config import PrepareConfig
from jobs.prepare.exclusions import read_exclusions
from jobs.prepare.inputs import check_options, check_pixels
from jobs.prepare.plan import DatasetPlan, plan_dataset, plan_segment, require_test_rows
from jobs.run_dir import Work
from jobs.text_table import text_table
from jobs.train.config import TrainConfig
from jobs.train.data.length import images_seen, row_order, total_steps, validation_steps
from jobs.train.data.order import RowOrder, share
from jobs.train.data.row_cache import row_bytes
from jobs.train.preflight import check_config, check_rows
from jobs.words import counted
from pipelines.config import Config

if TYPE_CHECKING:
    from jobs.archive_labels import ArchiveLabels


@dataclass(frozen=True, kw_only=True)
class RankPlan:
    """One rank in the first epoch: its training rows, the rows of its largest batch, its shards and validation rows."""

    rank: int
    rows: int
    rows_per_step: int
    shards: int
    validation_rows: int


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """The numbers of a training. `pairs`: training pairs; `shards`: the rows of each split's shards, in order.

    `labels`: None if only prepare will read them; `excludes`: whether it will leave some out of training. `is_exact`:
    false where labels or groups decide the sizes later. `batch_size`, `last_batch`: rows of each global batch, and of
    the last one of an epoch; `validation_steps`: from one validation to the next; `images`: training images seen in all
    `steps`. `pixels`: the type that the dataset stores; `are_bytes`: whether the archives are of uint8. `config`: of
    the training, from which these numbers follow. `store`: `prepare.store`.
    """

    pairs: int
    labels: "ArchiveLabels | None"
    excludes: bool
    shards: Mapping[Split, tuple[int, ...]]
    is_exact: bool
    row_shape: tuple[int, ...]
    pixels: PixelType
    batch_size: int
    last_batch: int
    steps_per_epoch: int
    steps: int
    validation_steps: int
    images: int
    ranks: tuple[RankPlan, ...]
    config: TrainConfig
    are_bytes: bool
    store: str | None


def plan_training(config: Config, work: Work, ranks: int) -> TrainingPlan:
    """Return the plan of a training on N ranks; raise InputError where such a training cannot work."""
    sizes = _archive_sizes(config, work)
    exclusions = read_exclusions(config.prepare.exclude)
    prepare, test_rows = config.prepare, sizes.test
    if sizes.labels and test_rows and prepare.unseen_classes == "ignore" and not prepare.exclude:
        test_rows -= sizes.labels.lacking.total
        prepare = prepare.model_copy(update={"unseen_classes": "count"})  # of the rows that stay
    excluded = {tag: len(exclusions.of(tag, rows)) for tag, rows in sizes.train.items()}
    pairs = _plan_pairs(prepare, sizes, test_rows, excluded)
    require_test_rows(sum(pair.rows["test"] for pair in pairs))
    shards = {split: tuple(rows for pair in pairs for rows in pair.shard_rows(split)) for split in SPLITS}
    train = config.train
    check_config(train, ranks)
    check_rows(train, sum(shards["train"]), sum(shards["validation"]), ranks)
    order = row_order(train, shards["train"], config.seed)
    steps = total_steps(train, order)
    return TrainingPlan(
        pairs=len(sizes.train),
        labels=sizes.labels,
        excludes=bool(prepare.exclude),
        shards=shards,
        is_exact=all(pair.is_exact for pair in pairs),
        row_shape=sizes.row_shape,
        pixels=config.prepare.pixels,
        store=config.prepare.store,
        are_bytes=sizes.are_bytes,
        batch_size=order.batch_size,
        config=train,
        last_batch=order.batch_rows(order.steps - 1),
        steps_per_epoch=order.steps,
        steps=steps,
        validation_steps=validation_steps(train, order),
        images=images_seen(order, steps),
        ranks=_ranks(order, sum(shards["validation"]), ranks),
    )


def _plan_pairs(
    prepare: PrepareConfig, sizes: "ArchiveSizes", test_rows: int | None, excluded: Mapping[str, int]
) -> list[DatasetPlan]:
    """Return what prepare plans: a dataset of one plain pair as a whole, one of tagged pairs pair by pair."""
    shape = sizes.row_shape
    if list(sizes.train) == [""]:
        return [plan_dataset(prepare, sizes.train[""], test_rows, shape, excluded[""], sizes.names[""])]
    pairs = [
        plan_segment(prepare, rows, shape, excluded[tag], sizes.names[tag], makes_test=test_rows is None)
        for tag, rows in sizes.train.items()
    ]
    return pairs if test_rows is None else [*pairs, plan_segment(prepare, test_rows, shape, is_test=True)]


def _ranks(order: RowOrder, validation_rows: int, ranks: int) -> tuple[RankPlan, ...]:
    epoch = order.epoch(0)
    plans = []
    for rank in range(ranks):
        first, last = order.share(order.batch_rows(0), rank, ranks)
        first_of_rest, last_of_rest = order.share(order.batch_rows(order.steps - 1), rank, ranks)
        low, high = share(validation_rows, rank, ranks)
        plans.append(
            RankPlan(
                rank=rank,
                rows=(order.steps - 1) * (last - first) + last_of_rest - first_of_rest,
                rows_per_step=last - first,
                shards=epoch.shards_read(rank, ranks),
                validation_rows=high - low,
            )
        )
    return tuple(plans)


@dataclass(frozen=True, kw_only=True)
class ArchiveSizes:
    """The rows of each training pair by its tag, in order, of the test pair, if there is one, and an image's shape.

    `names`: what messages call the training archives, by tag. `labels`: in all archives; None if only prepare will read
    them. `are_bytes`: whether the images are uint8, as all of the catalog's are.
    """

    train: Mapping[str, int]
    names: Mapping[str, str]
    test: int | None
    row_shape: tuple[int, ...]
    labels: "ArchiveLabels | None"
    are_bytes: bool


def _archive_sizes(config: Config, work: Work) -> ArchiveSizes:
    """Return sizes from the archives' headers, or from the catalog where there are no archives yet.

    Raises InputError where `fetch` would.
    """
    from jobs.fetch.check import check
    from jobs.fetch.locate import fetched_before, locate
    from jobs.fetch.remote import in_place

    located = locate(in_place(config.fetch, work.archives))
    paths = {**located.archives, **fetched_before(located, work.archives)}
    checked = check(located, paths, config.prepare.labels)
    shapes = {key: header.shape for key, header in checked.headers.items()}
    known = located.data_set.archives if located.data_set else {}
    shapes |= {role: known[role].shape for role in located.lacking if role not in shapes}
    check_options(config.prepare, shapes)
    check_pixels(config.prepare, checked.headers)
    training = sorted(key for key in shapes if role_of_key(key) == "train_images")
    test = shapes.get("test_images")
    tags = {key.partition(segments.MARK)[2]: key for key in training}
    return ArchiveSizes(
        train={tag: shapes[key][0] for tag, key in tags.items()},
        names={tag: paths[key].name if segments.MARK in key else "the training archive" for tag, key in tags.items()},
        test=test[0] if test else None,
        row_shape=shapes[training[0]][1:],
        labels=checked.labels,
        are_bytes=all(header.dtype == "u1" for key, header in checked.headers.items() if key in training),
    )


def test_images(config: Config, work: Work) -> int | None:
    """Return the number of test images, from the archive's header or the catalog; None if it is in neither."""
    try:
        return _archive_sizes(config, work).test
    except (InputError, OSError):
        return None


def lines(plan: TrainingPlan) -> list[str]:
    """Return the plan as lines of text, without its ranks."""
    text = [f"images      {' × '.join(map(str, plan.row_shape))}"]
    text += [f"pairs       {plan.pairs} training pairs"] if plan.pairs > 1 else []
    at_most = "at most " if plan.labels and plan.excludes else ""
    text.append(f"classes     {at_most}{_classes(plan.labels)}")
    for split in SPLITS:
        rows = plan.shards[split]
        each = f" of {_range(rows)}" if rows else ""
        about = "" if plan.is_exact else "about "
        text.append(f"{split:<11} {about}{counted(sum(rows), 'row')} in {counted(len(rows), 'shard')}{each}")
    if plan.store:
        text.append(f"store       shards go to {plan.store}; each node copies those that it reads to its TMPDIR")
    text.append(f"memory      {_memory(plan)}")
    last = f", the last on {counted(plan.last_batch, 'row', 'd')}" if plan.last_batch != plan.batch_size else ""
    text += [
        f"epoch       {counted(plan.steps_per_epoch, 'step')} on global batches of "
        f"{plan.batch_size}{last}{_why_batch(plan)}",
        f"training    {counted(plan.steps, 'step')}, {counted(plan.images, 'image')}{_why_steps(plan)}",
    ]
    return text


def _memory(plan: TrainingPlan) -> str:
    """Return the memory of a node whose ranks keep all rows, and what stored bytes would take."""
    rows, values = sum(plan.shards["train"]) + sum(plan.shards["validation"]), prod(plan.row_shape)
    floats, stored = (f"{rows * row_bytes(size * values) / 1e6:,.1f} MB" for size in (4, 1))
    if plan.pixels == "uint8":
        return f"{stored} for all rows on each node"
    return f"{floats} for all rows on each node" + (f" ({stored} with prepare.pixels=uint8)" if plan.are_bytes else "")


def _classes(labels: "ArchiveLabels | None") -> str:
    """Return the classes, and those that only training or only the test archive has."""
    if labels is None:
        return "prepare counts them, and checks those of the test images"
    text = f"{len(labels.training.labels):,}"
    if labels.lacking.total:
        text += f"; {labels.lacking.total:,} test images of others: {labels.lacking}"
    only_training = labels.training.without(labels.test.labels)
    if labels.test.total and only_training.total:
        text += f"; without test images: {only_training}"
    return text


def _why_batch(plan: TrainingPlan) -> str:
    """Return why the batch is smaller than the config's, if it is."""
    if plan.batch_size == plan.config.batch_size:
        return ""
    return f" (instead of {plan.config.batch_size}, for {counted(sum(plan.shards['train']), 'row')})"


def _why_steps(plan: TrainingPlan) -> str:
    """Return how many epochs the steps are, if it is because of the minimum number of steps."""
    least = plan.config.min_steps or 0
    if plan.config.epochs is None or not plan.config.epochs * plan.steps_per_epoch < least <= plan.steps:
        return ""
    epochs = counted(-(-plan.steps // plan.steps_per_epoch), "epoch")
    return f" ({epochs} to reach {counted(least, 'step')})"


def rank_table(plan: TrainingPlan) -> list[str]:
    """Return the numbers of each rank as a table."""
    header = ("rank", "rows per epoch", "rows per step", "steps per epoch", "shards read", "validation rows")
    rows: list[tuple[object, ...]] = [
        (r.rank, r.rows, r.rows_per_step, plan.steps_per_epoch, r.shards, r.validation_rows) for r in plan.ranks
    ]
    total = sum(rank.rows for rank in plan.ranks)
    rows.append(("all", total, plan.batch_size, "", "", sum(plan.shards["validation"])))
    return text_table(header, rows, right=range(len(header)))


def _range(rows: Sequence[int]) -> str:
    return f"{min(rows):,} to {counted(max(rows), 'row')}" if min(rows) < max(rows) else counted(rows[0], "row")
