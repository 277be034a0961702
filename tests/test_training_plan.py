"""The plan of a training: from headers and config, before anything starts."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.dataset import SPLITS
from jobs.description import Description
from jobs.errors import InputError
from jobs.fetch.stage import fetch
from jobs.prepare import plan as prepare_plan
from jobs.prepare.compose import read_pairs
from jobs.prepare.inputs import Inputs
from jobs.run_dir import Work
from pipelines.config import compose
from pipelines.plan import lines, plan_training
from tests.conftest import MakeArchives
from tests.test_segments import add_pair


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


@pytest.mark.parametrize("has_test", [True, False])
def test_the_long_shards_of_many_rows_are_planned_pair_by_pair_as_prepare_makes_them(
    tmp_path: Path, make_archives: MakeArchives, monkeypatch: pytest.MonkeyPatch, has_test: bool
) -> None:
    """As of pairs of 30 million rows, which get longer shards than usual."""
    monkeypatch.setattr(prepare_plan, "_SHARD_ROWS", 10)
    monkeypatch.setattr(prepare_plan, "_MOST_SHARDS", 8)
    folder, scratch = tmp_path / "data", tmp_path / "scratch"
    folder.mkdir()
    scratch.mkdir()
    if has_test:
        make_archives(folder, train=90, test=100)
    for tag, rows in (("a", 130), ("b", 70)):
        add_pair(folder, tag, make_archives, tmp_path, rows=rows)
    config = compose("fast", {"fetch.data": str(folder), "fetch.dataset": "own"}, ["train.batch_size=8"])
    archives = fetch(config.fetch, tmp_path / "work" / "archives", tmp_path / "locks").archives
    test, training = read_pairs(Inputs(config.prepare, archives, Description()), scratch)
    plans = [pair.plan(config.prepare) for pair in (*training, *([test] if test else []))]
    planned = plan_training(config, Work(tmp_path / "work"), 1).shards
    assert planned == {split: tuple(rows for plan in plans for rows in plan.shard_rows(split)) for split in SPLITS}
    assert max(planned["train"]) > 10


def test_a_billion_rows_are_planned_for_1024_ranks_in_little_memory(tmp_path: Path) -> None:
    """The archives are sparse files. Measured: 1 s and 60 MB."""
    for name, rows in (("train", 10**9), ("t10k", 10**4)):
        images, labels = tmp_path / f"{name}-images-idx3-ubyte", tmp_path / f"{name}-labels-idx1-ubyte"
        for path, header, size in (
            (images, struct.pack(">HBB3I", 0, 8, 3, rows, 28, 28), 28 * 28),
            (labels, struct.pack(">HBBI", 0, 8, 1, rows), 1),
        ):
            path.write_bytes(header)
            os.truncate(path, len(header) + rows * size)
    options = ("--data", str(tmp_path), "--work", str(tmp_path / "work"), "--set", "train.batch_size=65536")
    program = str(Path(sys.executable).with_name("idxtrain"))
    # By way of a small process: a child's peak counts the memory of the process that it was forked from.
    measure = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True);"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN); print(used.ru_maxrss, used.ru_utime + used.ru_stime)"
    )
    command = [sys.executable, "-c", measure, program, "plan", "--np", "1024", *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    assert "train       916,666,667 rows in 21,418 shards of 42,798 to 42,799 rows" in done.stdout
    *ranks, total, used = (line.split() for line in done.stdout.split("shards read", 1)[1].splitlines()[1:])
    assert len(ranks) == 1024
    assert (sum(int(rank[1]) for rank in ranks), int(total[1])) == (916_666_667, 916_666_667)
    assert max(int(rank[4]) for rank in ranks) <= 43
    kilobytes, seconds = map(float, used)
    assert kilobytes < 300_000
    assert seconds < 10
