"""Sweeps: the grid, folds, the table, and six points as an array on a real Slurm."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from jobs.dataset import Split, read_manifest, read_split
from jobs.errors import InputError
from jobs.files import write_json
from jobs.run_dir import RunDir, Work
from jobs.stage import dataset_of, stage_key, write_record
from pipelines.config import compose
from pipelines.sweep.grid import Point, Sweep, grid_points, read_sweep
from pipelines.sweep.results import Result, best, combined, read_results, result_table
from tests.conftest import Idxtrain, MakeArchives, idxtrain_in
from tests.support.slurm_cluster import SlurmCluster

SETTINGS = ("--recipe", "softmax", "--set=train.batch_size=50", "--set=train.max_steps=20")
# 1e-60 is 0 in float32: nothing is learned at that rate, so the points differ.
AXES = ("--grid", "train.learning_rate=1e-60,0.05,0.5", "--grid", "train.batch_size=50,60")


def test_the_last_axis_of_a_grid_changes_first() -> None:
    points = grid_points("s", ["train.learning_rate=1e-4, 1e-3", "seed=0,1,2"])
    assert [point.run_id for point in points] == [f"s-{n}" for n in range(6)]
    assert points[1].settings == ("train.learning_rate=1e-4", "seed=1")
    assert len({point.settings for point in points}) == 6


def test_a_range_of_an_axis_is_all_of_its_numbers_and_seeds_change_first() -> None:
    points = grid_points("s", ["seed=0..2,7", "train.epochs=1,2"])
    assert [point.settings for point in points[:5]] == [
        ("train.epochs=1", "seed=0"), ("train.epochs=1", "seed=1"), ("train.epochs=1", "seed=2"),
        ("train.epochs=1", "seed=7"), ("train.epochs=2", "seed=0"),
    ]  # fmt: skip
    for text in ("4..0", "0..1000"):
        with pytest.raises(
            InputError, match=rf"--grid seed={text}: found {text}, expected a range of 1 to 1000 values"
        ):
            grid_points("s", [f"seed={text}"])


@pytest.mark.parametrize("axis", ["train.epochs", "=1,2", "train.epochs=1,", "train.epochs=1,1", ""])
def test_an_invalid_axis_is_refused(axis: str) -> None:
    with pytest.raises(InputError, match=r"--grid .*: (expected section\.key=VALUE,VALUE|found a (key|value) twice)"):
        grid_points("s", [axis])


def test_a_grid_of_too_many_points_is_refused() -> None:
    values = ",".join(map(str, range(40)))
    with pytest.raises(InputError, match="found 1600 points, expected 1000 runs or fewer"):
        grid_points("s", [f"seed={values}", f"train.epochs={values}"])


def trained(point: Point, accuracy: float) -> Result:
    return Result(points=(point,), accuracy=accuracy, steps=100, images_per_second=1234.5, seconds=9.87)


def test_the_table_is_sorted_by_validation_accuracy_with_failures_last() -> None:
    points = [Point(f"s-{n}", (f"train.epochs={n}",)) for n in range(4)]
    results = [
        trained(points[0], 0.97),
        Result(points=(points[1],), detail="failed, see logs"),
        trained(points[2], 0.99),
        trained(points[3], 0.99),
    ]
    winner = best(results)
    assert winner is not None
    assert winner.point.run_id == "s-2"
    assert result_table(results) == [
        "run  train.epochs  validation  steps  images/s  seconds",
        "s-2             2      0.9900    100     1,234      9.9  best",
        "s-3             3      0.9900    100     1,234      9.9",
        "s-0             0      0.9700    100     1,234      9.9",
        "s-1             1           –      –         –        –  failed, see logs",
    ]
    assert best(results[1:2]) is None


def test_folds_repeat_each_point_and_change_first() -> None:
    points = grid_points("s", ["seed=0,1"], 3)
    assert [(point.run_id, point.fold) for point in points] == [
        ("s-0", "1/3"), ("s-1", "2/3"), ("s-2", "3/3"), ("s-3", "1/3"), ("s-4", "2/3"), ("s-5", "3/3"),
    ]  # fmt: skip
    assert points[4].assignments == ("seed=1", "prepare.validation_from=fold:2/3", "prepare.validation_rows=none")


def test_folds_in_a_grid_of_validation_keys_are_refused() -> None:
    with pytest.raises(InputError, match=r"--folds 3: found prepare\.validation_… in --grid"):
        grid_points("s", ["prepare.validation_from=first,last"], 3)


def test_the_best_point_has_the_highest_mean_over_its_folds() -> None:
    points = grid_points("s", ["train.epochs=0,1,2"], 2)
    accuracies = (0.99, 0.95, 0.975, 0.985, 0.999, None)
    folds = [
        trained(point, accuracy) if accuracy is not None else Result(points=(point,), detail="not trained")
        for point, accuracy in zip(points, accuracies, strict=True)
    ]
    assert result_table([combined(folds[start : start + 2]) for start in (0, 2, 4)]) == [
        "runs        train.epochs       validation  steps  images/s  seconds",
        "s-2 to s-3             1  0.9800 ± 0.0071    100     1,234     19.7  best",
        "s-0 to s-1             0  0.9700 ± 0.0283    100     1,234     19.7",
        "s-4 to s-5             2                –      –         –        –  s-5: not trained",
    ]


def test_the_best_setting_has_the_highest_mean_over_its_seeds(tmp_path: Path) -> None:
    """Not the luckiest run, s-2, decides. Its deviation is that of NumPy with one degree of freedom less."""
    points = grid_points("s", ["seed=0..2", "train.epochs=1,2"])
    sweep = Sweep(name="s", work=Work(tmp_path), points=points)
    accuracies = (0.90, 0.91, 0.99, 0.95, 0.96, 0.97)
    for point, accuracy in zip(points, accuracies, strict=True):
        run = sweep.run(point)
        run.path.mkdir(parents=True)
        write_json(run.config_file, compose("softmax", {}).to_json())
        outputs = {"validation": {"accuracy": accuracy}, "steps": 100, "images_per_second": 1234.5}
        for stage in ("fetch", "prepare", "train"):
            write_record(run, stage, stage_key(run, stage), outputs, [])
    results = read_results(sweep, {})
    winner = best(results)
    assert winner is not None
    assert (winner.about, winner.point.run_id) == ("train.epochs=2, seed=0,1,2", "s-3")
    assert winner.std == pytest.approx(np.std(accuracies[3:], ddof=1))
    table = [line.split()[:7] for line in result_table(results)]
    assert table[0][:3] == ["runs", "train.epochs", "validation"]
    assert [row[:7] for row in table[1:]] == [
        ["s-3", "to", "s-5", "2", "0.9600", "±", "0.0100"],
        ["s-0", "to", "s-2", "1", "0.9333", "±", "0.0493"],
    ]


def test_a_sweep_is_read_as_it_was_written(tmp_path: Path) -> None:
    sweep = Sweep(
        name="s", work=Work(tmp_path), points=grid_points("s", ["seed=0"], 2), validation={"validation_rows": None}
    )
    sweep.write()
    assert read_sweep("s", Work(tmp_path)) == sweep
    (sweep.folder / "sweep.json").write_text('{"s-0": ["seed=0"]}')  # as earlier versions wrote it
    with pytest.raises(InputError, match=r"found another format, .*; fix: start it again"):
        read_sweep("s", Work(tmp_path))


def test_no_point_is_trained_if_one_is_invalid(idxtrain: Idxtrain, tmp_path: Path) -> None:
    done = idxtrain("sweep", "--recipe", "softmax", "--grid", "train.epochs=1,0", "--name", "s")
    assert done.returncode == 2
    assert "train.epochs: found 0" in done.stderr
    assert not (tmp_path / "work").exists()


def check_output(stdout: str, work: Path, name: str) -> None:
    """Check what a sweep printed at its end: the table, the best point, and its result on the test set."""
    lines = stdout.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("run  "))
    assert lines[start].split() == [
        "run", "train.learning_rate", "train.batch_size", "validation", "steps", "images/s", "seconds",
    ]  # fmt: skip
    rows = [line.split() for line in lines[start + 1 : start + 7]]
    assert {row[0] for row in rows} == {f"{name}-{n}" for n in range(6)}
    accuracies = [float(row[3]) for row in rows]
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[0] > accuracies[-1]
    assert rows[0][-1] == "best"
    assert any(line.startswith(f"best by validation: {rows[0][0]}: train.learning_rate=") for line in lines)
    assert lines[-1].startswith("test accuracy ")
    # Only the best point may see the test set.
    tested = {path.parent.name for path in (work / "runs").glob("*/metrics.json")}
    assert tested == {rows[0][0]}
    assert (work / "sweeps" / name / "table.txt").read_text().splitlines() == lines[start : start + 7]


@pytest.mark.slow
def test_six_points_run_as_a_slurm_array(slurm: SlurmCluster, make_archives: MakeArchives, tmp_path: Path) -> None:
    make_archives(tmp_path / "data", (6, 8), 3, train=300, test=50)
    (tmp_path / "site.toml").write_text('scratch = "/tmp"\n[train]\ncpus = 2\n', encoding="utf-8")
    work = tmp_path / "100%a b,c#d/work"  # in file names Slurm replaces %a by the task number
    where = ("--work", work, "--name", "s")
    run = idxtrain_in(tmp_path)
    done = run(
        "sweep", *where, "--data", tmp_path / "data", *SETTINGS, *AXES, "--site", tmp_path / "site.toml",
        env=slurm.environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    jobs = dict(line.split() for line in done.stdout.splitlines())
    array = jobs["train"].partition("_")[0]
    assert jobs["train"] == f"{array}_[0-5]"
    slurm.wait_for_end(jobs["evaluate"], seconds=400)
    output = (work / f"sweeps/s/table-{jobs['evaluate']}.out").read_text()
    assert slurm.state(jobs["evaluate"]) == "COMPLETED", output
    assert [slurm.state(f"{array}_{n}") for n in range(6)] == ["COMPLETED"] * 6
    check_output(output, work, "s")
    shown = run("sweep", *where, "--table")
    assert shown.stdout == (work / "sweeps/s/table.txt").read_text()
    status = run("status", "s-3", "--work", work, env=slurm.environment)
    assert f"{array}_3" in status.stdout
    assert status.returncode == 0
    whole = run("status", "s", "--work", work, env=slurm.environment)
    assert whole.returncode == 0
    assert whole.stdout.splitlines()[0] == "sweep s: 6 runs, 6 trained"
    logs = run("logs", "s", "--work", work, env=slurm.environment).stdout
    assert logs.index("==> s-0: prepare (") < logs.index("==> s-5: train (") < logs.index("==> table (")
    assert "best by validation: " in logs


@pytest.mark.slow
def test_on_slurm_the_best_point_of_a_sweep_with_folds_is_submitted(
    slurm: SlurmCluster, make_archives: MakeArchives, tmp_path: Path
) -> None:
    make_archives(tmp_path / "data", (6, 8), 3, train=90, test=30)
    (tmp_path / "site.toml").write_text('scratch = "/tmp"\n[train]\ncpus = 2\n', encoding="utf-8")
    work = tmp_path / "work"
    done = idxtrain_in(tmp_path)(
        "sweep", "--work", work, "--name", "s", "--data", tmp_path / "data", *SETTINGS, "--folds", "2",
        "--grid", "train.learning_rate=1e-60,0.5", "--site", tmp_path / "site.toml", env=slurm.environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    jobs = dict(line.split() for line in done.stdout.splitlines())
    assert jobs["train"].endswith("_[0-3]")
    slurm.wait_for_end(jobs["evaluate"], seconds=400)
    output = (work / f"sweeps/s/table-{jobs['evaluate']}.out").read_text()
    assert slurm.state(jobs["evaluate"]) == "COMPLETED", output
    assert "best by validation: s-2 to s-3: train.learning_rate=0.5" in output
    submitted = re.search(
        r"submitted as run s-2-best: prepare \d+, train \d+, evaluate (\d+); `idxtrain status", output
    )
    assert submitted, output
    slurm.wait_for_end(submitted[1], seconds=400)
    assert slurm.state(submitted[1]) == "COMPLETED"
    assert {path.parent.name for path in (work / "runs").glob("*/metrics.json")} == {"s-2-best"}


@pytest.mark.slow
def test_six_points_run_one_after_the_other_without_slurm(make_archives: MakeArchives, tmp_path: Path) -> None:
    make_archives(tmp_path / "data", (6, 8), 3, train=300, test=50)
    run = idxtrain_in(tmp_path)
    options = ("--work", tmp_path / "work", "--name", "s", "--data", tmp_path / "data", *SETTINGS, *AXES)
    done = run("sweep", *options)
    assert done.returncode == 0, done.stderr
    check_output(done.stdout, tmp_path / "work", "s")
    again = run("sweep", *options)
    assert again.stdout == done.stdout
    steps = json.loads((tmp_path / "work/runs/s-0/stages/train.json").read_text())["outputs"]["steps"]
    assert steps == 20


@pytest.mark.long
def test_the_best_point_of_a_sweep_with_folds_is_trained_again_and_tested_once(
    make_archives: MakeArchives, tmp_path: Path
) -> None:
    make_archives(tmp_path / "data", (6, 8), 3, train=90, test=30)
    run, work = idxtrain_in(tmp_path), tmp_path / "work"
    options = ("--work", work, "--name", "s", "--data", tmp_path / "data", *SETTINGS)
    sweep = ("sweep", *options, "--grid", "train.learning_rate=0.5", "--folds", "2")
    done = run(*sweep)
    assert done.returncode == 0, done.stderr
    header, row, best_line, result = done.stdout.splitlines()
    assert header.split() == ["runs", "train.learning_rate", "validation", "steps", "images/s", "seconds"]
    assert re.match(r"s-0 to s-1 +0\.5 +\d\.\d{4} ± \d\.\d{4} +20 .* best$", row)
    assert best_line == "best by validation: s-0 to s-1: train.learning_rate=0.5"
    assert result.startswith("test accuracy ")
    assert {path.parent.name for path in (work / "runs").glob("*/metrics.json")} == {"s-0-best"}
    rows = {name: rows_of(work, name) for name in ("s-0", "s-1", "s-0-best")}
    # Each row is in the validation split of exactly one fold; the best point is trained on the usual split.
    assert sorted(rows["s-0"]["validation"] + rows["s-1"]["validation"]) == list(range(90))
    assert len(rows["s-0-best"]["train"]) == 90 - 90 // 12
    assert run(*sweep).stdout == done.stdout


def rows_of(work: Path, run_id: str) -> dict[str, list[int]]:
    """Return the archive rows of each split that a run was trained and validated on."""
    directory = dataset_of(RunDir(work / "runs" / run_id))
    manifest = read_manifest(directory)
    splits: tuple[Split, ...] = ("train", "validation")
    return {split: read_split(directory, manifest, split)[2].tolist() for split in splits}
