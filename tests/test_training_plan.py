"""The plan of a training: from headers and config, before anything starts."""

from pathlib import Path

import pytest

from jobs.errors import InputError
from jobs.run_dir import Work
from pipelines.config import compose
from pipelines.plan import lines, plan_training
from tests.conftest import MakeArchives


def test_the_plan_shows_rows_steps_and_shards(tmp_path: Path, make_archives: MakeArchives) -> None:
    make_archives(tmp_path / "data", (6, 8), 3, train=120, test=40)
    config = compose(
        "fast", {"fetch.data": str(tmp_path / "data"), "fetch.dataset": "data", "prepare.rows_per_shard": 25},
        ["train.batch_size=32", "train.epochs=3"],
    )  # fmt: skip
    plan = plan_training(config, Work(tmp_path), 3)
    assert [rank.rows for rank in plan.ranks] == [34, 38, 38]
    assert sum(rank.rows for rank in plan.ranks) == 110
    assert (plan.steps_per_epoch, plan.last_batch, plan.steps, plan.images) == (4, 14, 12, 330)
    text = "\n".join(lines(plan))
    assert "110 rows in 5 shards of 22 rows" in text
    assert "4 steps on global batches of 32, the last on 14 rows" in text


def test_the_plan_shows_a_batch_that_fits_the_rows_and_the_epochs_that_reach_the_least_steps(
    tmp_path: Path, make_archives: MakeArchives
) -> None:
    make_archives(tmp_path / "data", (6, 8), 3, train=1200, test=40)
    settings = {"fetch.data": str(tmp_path / "data"), "fetch.dataset": "data"}
    options = ["train.min_steps=110", "train.min_steps_per_epoch=30"]
    text = "\n".join(lines(plan_training(compose("fast", settings, options), Work(tmp_path), 2)))
    assert "35 steps on global batches of 32, the last on 12 rows (instead of 256, for 1,100 rows)" in text
    assert "training    140 steps, 4,400 images (4 epochs to reach 110 steps)" in text
    refusal = r"^train\.min_steps_per_epoch: found a global batch of 32 for 1,100 training .* fix: lower --np to 32 or"
    with pytest.raises(InputError, match=refusal + r" less, or set train\.batch_size=33 or more, which is then kept$"):
        plan_training(compose("fast", settings, options), Work(tmp_path), 33)
    assert plan_training(compose("fast", settings, ["train.batch_size=33"]), Work(tmp_path), 33).steps_per_epoch == 34
    with pytest.raises(InputError, match=r"^train\.keep=best: found no validation rows"):
        plan_training(compose("fast", settings, ["train.keep=best", "prepare.validation_rows=0"]), Work(tmp_path), 1)


def test_the_plan_knows_a_missing_test_pair_excluded_rows_and_sizes_that_groups_decide(
    tmp_path: Path, make_archives: MakeArchives
) -> None:
    for role, archive in make_archives(tmp_path / "data", (6, 8), 3, train=1220, test=40).items():
        if role.startswith("test"):
            archive.path.unlink()
    (tmp_path / "list.csv").write_text("role,row\n" + "".join(f"train,{row}\n" for row in range(20)))
    settings = {"fetch.data": str(tmp_path / "data"), "fetch.dataset": "data"}
    settings["prepare.exclude"] = str(tmp_path / "list.csv")
    plan = plan_training(compose("fast", settings), Work(tmp_path), 1)
    assert {split: sum(rows) for split, rows in plan.shards.items()} == {"train": 978, "validation": 100, "test": 122}
    assert not plan.is_exact  # of the 20 rows, those in the test split stay
    grouped = ["prepare.validation_from=group", "prepare.groups=writers.csv"]
    text = "\n".join(lines(plan_training(compose("fast", settings, grouped), Work(tmp_path), 1)))
    assert "validation  about 100 rows in 1 shard of 100 rows" in text
    (tmp_path / "list.csv").write_text("role,row\ntrain,1220\n")
    with pytest.raises(InputError, match=r"list\.csv: found row 1220, expected 0 to 1219"):
        plan_training(compose("fast", settings), Work(tmp_path), 1)


def test_the_plan_without_archives_uses_the_catalogs_sizes(tmp_path: Path) -> None:
    plan = plan_training(compose("lecture", {}), Work(tmp_path), 2)
    assert {split: sum(rows) for split, rows in plan.shards.items()} == {
        "train": 55_000,
        "validation": 5_000,
        "test": 10_000,
    }
    assert (plan.steps_per_epoch, plan.steps, plan.images) == (1_100, 20_000, 1_000_000)
    with pytest.raises(InputError, match="--data"):
        plan_training(compose("fast", {"fetch.dataset": "unknown"}), Work(tmp_path), 1)
