"""`idxtrain runs`: what it lists, shows, compares, measures and removes. The runs are fakes; their files are real."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.errors import InputError
from jobs.files import sealed, write_json
from jobs.metrics import read_metrics
from jobs.run_dir import RunDir, Work
from jobs.stage import STAGES
from pipelines.config import compose
from pipelines.history import comparison, details
from pipelines.history.listing import age_text, as_json, filter_of, lines
from pipelines.history.removal import remove
from pipelines.history.sizes import parts, size_text
from pipelines.history.summary import Summary, summaries
from pipelines.lock import RunLock
from pipelines.retraining.records import Inputs, State
from pipelines.retraining.retrain_dir import RetrainDir
from tests.conftest import Idxtrain
from tests.test_schemas import METRICS

LABELS = np.arange(100) % 10


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path / "work")


def make_run(
    work: Work,
    run_id: str,
    done: Sequence[str] = STAGES,
    *,
    age: float = 0.0,
    wrong: Sequence[int] = (),
    settings: tuple[str, ...] = (),
    dataset: str = "0123456789abcdef",
    seed: int = 0,
) -> RunDir:
    """Make a run that has finished some stages. `wrong`: the test images that its model classifies incorrectly."""
    run = RunDir(work.runs / run_id)
    (run.path / "stages").mkdir(parents=True)
    run.logs.mkdir()
    config = compose("fast", {"fetch.data": "/d", "fetch.dataset": "letters", "seed": seed}, settings)
    write_json(run.config_file, config.to_json())
    made = time.time() - age
    os.utime(run.config_file, (made, made))
    (work.datasets / dataset).mkdir(parents=True, exist_ok=True)
    (work.datasets / dataset / "part").write_bytes(b"x" * 5000)
    outputs: dict[str, dict[str, Any]] = {
        "fetch": {"archives": {}},
        "prepare": {"dataset": str(work.datasets / dataset)},
        "train": {"validation": {"accuracy": 0.75}},
        "evaluate": {},
    }
    for stage in done:
        record = {"key": "k", "outputs": outputs[stage], "files": [], "seconds": 2.5}
        write_json(run.record_file(stage), sealed(record))
    if "evaluate" in done:
        predict(run, wrong, dataset)
    return run


def predict(run: RunDir, wrong: Sequence[int], dataset: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    predicted = LABELS.copy()
    predicted[list(wrong)] += 1
    columns = {"index": np.arange(len(LABELS)), "label": LABELS, "predicted": predicted}
    pq.write_table(pa.table({name: pa.array(values) for name, values in columns.items()}), run.predictions_file)
    accuracy = 1 - len(wrong) / len(LABELS)
    test = METRICS["test"] | {"accuracy": accuracy, "errors": len(wrong), "count": len(LABELS)}
    write_json(run.metrics_file, METRICS | {"run_id": run.run_id, "dataset_id": dataset, "test": test})


def by_id(work: Work) -> dict[str, Summary]:
    return {each.run.run_id: each for each in summaries(work)}


# --- the list


def test_a_run_is_listed_with_its_state_and_how_far_it_came(work: Work) -> None:
    make_run(work, "finished", wrong=[1, 2, 3], age=30)
    make_run(work, "trained", STAGES[:3], age=20)
    stopped = make_run(work, "stopped", STAGES[:2], age=10)
    stopped.curve_file.write_text(
        '{"kind": "train", "step": 50, "loss": 1}\n{"kind": "validation", "step": 60, "accuracy": 0.5}\n{"torn'
    )
    running = make_run(work, "running", STAGES[:1])
    (work.runs / "no run").mkdir()
    with RunLock(running):
        listed = by_id(work)
    assert list(listed) == ["running", "stopped", "trained", "finished"], "the newest first"
    assert {name: each.state for name, each in listed.items()} == {name: name for name in listed}
    assert (listed["finished"].accuracy, listed["trained"].accuracy) == (0.97, None)
    assert (listed["trained"].validation, listed["stopped"].validation) == (0.75, 0.5)
    assert (listed["stopped"].stage, listed["stopped"].step) == ("train", 60)
    assert listed["running"].stage == "prepare"
    text = "\n".join(lines(list(listed.values())))
    assert "stopped in train at step 60 " in text
    assert "running in prepare " in text


def test_a_run_whose_process_was_killed_is_listed_as_stopped(work: Work) -> None:
    run = make_run(work, "killed", STAGES[:2])
    program = (
        "import os; from pathlib import Path; from jobs.run_dir import RunDir; from pipelines.lock import RunLock\n"
        f"RunLock(RunDir(Path({str(run.path)!r}))).__enter__(); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 9
    assert (run.path / "lock.json").exists()
    assert by_id(work)["killed"].state == "stopped"


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"fetch": 1, "seed": "x"}', "\xff"])
def test_a_damaged_run_does_not_break_the_list(work: Work, content: str) -> None:
    make_run(work, "good")
    run = make_run(work, "damaged")
    run.config_file.write_bytes(content.encode("latin-1"))
    run.metrics_file.write_text("{")
    listed = by_id(work)
    assert listed.keys() == {"good", "damaged"}
    assert "damaged" in "\n".join(lines(list(listed.values())))


def test_filters_select_by_state_recipe_data_seed_and_age(work: Work) -> None:
    make_run(work, "old", age=10 * 86400)
    make_run(work, "new", STAGES[:3], seed=4)
    found = summaries(work)

    def ids(*only: str, newer_than: str | None = None) -> list[str]:
        return [each.run.run_id for each in filter(filter_of(only, newer_than), found)]

    assert ids() == ids("state=trained", "state=finished") == ids("recipe=fast", "data=letters") == ["new", "old"]
    assert ids("state=trained") == ids("seed=4") == ids(newer_than="7d") == ["new"]
    assert ids("recipe=best") == ids("data=mnist") == ids("state=trained", "seed=0") == []


@pytest.mark.parametrize(
    ("only", "newer_than", "words"),
    [
        ("state=done", None, "--only state=done: found no such state, expected finished, trained, "),
        ("best", None, "--only best: found no known key, expected KEY=VALUE, KEY one of state, recipe, "),
        ("size=3", None, "--only size=3: found no known key"),
        ("seed=1", "soon", "--newer-than soon: found no age, expected a number and min, h, d or w"),
    ],
)
def test_a_filter_that_cannot_be_read_is_refused(only: str, newer_than: str | None, words: str) -> None:
    with pytest.raises(InputError, match=words):
        filter_of([only], newer_than)


def test_the_list_as_json_can_be_read_by_scripts(work: Work) -> None:
    make_run(work, "r", wrong=[4])
    row = json.loads(as_json(summaries(work)))[0]
    assert (row["run_id"], row["state"], row["test_accuracy"], row["seed"]) == ("r", "finished", 0.99, 0)
    assert row["bytes"] > 1000


def test_ages_and_sizes_are_readable() -> None:
    ages = (0, 59.9, 60, 3599, 3600, 47 * 3600, 48 * 3600)
    assert [age_text(seconds) for seconds in ages] == ["0 s", "59 s", "1 min", "59 min", "1 h", "47 h", "2 d"]
    sizes = (999, 1000, 9_949, 9_960, 999_499, 999_500, 38_000_000_000)
    expected = ["999 B", "1.0 kB", "9.9 kB", "10 kB", "999 kB", "1.0 MB", "38 GB"]
    assert [size_text(size) for size in sizes] == expected


# --- one run


def test_a_run_is_shown_with_its_own_options_result_times_and_files(work: Work) -> None:
    run = make_run(work, "r", wrong=[5, 6], settings=("train.epochs=7",))
    text = "\n".join(details.lines(run))
    assert "run r: finished" in text
    assert re.search(r"^train.epochs +3 +7$", text, re.MULTILINE)
    assert "test accuracy 0.9800 (2 errors in 100), 95 % interval 0.1000 to 0.9000" in text
    assert "caveat: 2 test images are few" in text
    assert "evaluate      2.5" in text
    assert f"{work.datasets}/0123456789abcdef  5.0 kB" in text


# --- two runs


def test_two_runs_are_compared_by_the_images_that_only_one_of_them_classifies_correctly(work: Work) -> None:
    one = make_run(work, "one", wrong=range(20))
    other = make_run(work, "other", wrong=[0, 1, 99], seed=3)
    text = list(comparison.lines((one, other)))
    assert "seed    0    3" in text
    assert "test errors              20       3" in text
    # 18 to 1: 2 (1 + 19) / 2^19 = 7.6e-5
    assert text[-1] == (
        "classified correctly by one alone: 1 image, by other alone: 18; "
        "other is better (p = 7.6e-05, McNemar's exact test)"
    )


def pair(only_one: int, only_other: int) -> str:
    p = comparison.two_sided(only_one, only_other)
    return str(comparison.Pair(one="a", other="b", only_one=only_one, only_other=only_other, p=p))


def test_a_difference_that_may_be_chance_is_called_that() -> None:
    assert pair(5, 9).endswith("the difference may be chance (p = 0.42, McNemar's exact test)")
    assert "(p = 1, " in pair(0, 0)


def test_the_two_sided_test_equals_scipys() -> None:
    from scipy.stats import binomtest

    for left, right in ((0, 6), (3, 11), (40, 22), (7, 7)):
        assert f"(p = {binomtest(left, left + right, 0.5).pvalue:.2g}, " in pair(left, right)


def test_the_p_values_of_several_pairs_are_adjusted_as_statsmodels_does() -> None:
    from statsmodels.stats.multitest import multipletests

    for values in ([0.01, 0.04, 0.03], [0.5, 0.02, 0.6, 0.02], [1.0]):
        assert comparison.holm(values) == pytest.approx(multipletests(values, method="holm")[1].tolist())


def test_runs_on_other_test_images_are_not_judged(work: Work) -> None:
    one, other = make_run(work, "one"), make_run(work, "other", dataset="fedcba9876543210", wrong=range(50))
    assert list(comparison.lines((one, other)))[-1].startswith("not comparable: ")
    untested = make_run(work, "untested", STAGES[:3])
    last = list(comparison.lines((one, untested)))[-1]
    assert last == f"not evaluated: untested; fix: run `idxtrain evaluate --run-id {untested.selector}`"


def test_an_untested_point_of_a_sweep_is_not_suggested_for_the_test_set(work: Work) -> None:
    one, point = make_run(work, "one"), make_run(work, "rates-0", STAGES[:3])
    folder = work.sweeps / "rates"
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text('{"points": ["rates-0", "rates-1"]}')
    expected = "fix: take the best point of sweep rates: only that one is tested"
    assert list(comparison.lines((one, point)))[-1] == f"not evaluated: rates-0; {expected}"
    with pytest.raises(InputError, match=expected):
        read_metrics(point)


# --- the disk


def test_a_file_that_datasets_share_counts_once(work: Work) -> None:
    make_run(work, "r", dataset="a" * 16)
    make_run(work, "s", dataset="b" * 16)
    segment = work.segments / "c" / "part"
    segment.parent.mkdir(parents=True)
    segment.write_bytes(b"y" * 100_000)
    for name in ("a", "b"):
        os.link(segment, work.datasets / (name * 16) / "shared")
    (work.datasets / ("d" * 16)).mkdir()
    (work.datasets / ("d" * 16) / "part").write_bytes(b"z" * 10)
    listed = {part.name: part for part in parts(work)}
    assert listed[f"datasets/{'a' * 16}"].size == 105_000
    assert listed[f"datasets/{'b' * 16}"].size == 5_000
    assert "segments" not in listed
    assert listed[f"datasets/{'a' * 16}"].detail == "used by 1 run"
    assert listed[f"datasets/{'d' * 16}"].detail == "used by no run"
    assert listed["runs"].detail == "2 runs"


# --- removal


def test_a_run_is_removed_with_the_dataset_that_no_other_run_uses(work: Work) -> None:
    make_run(work, "stays", dataset="a" * 16)
    shares, alone = make_run(work, "shares", dataset="a" * 16), make_run(work, "alone", dataset="b" * 16)
    dry = list(remove(work, [shares, alone], with_data=True, is_dry=True, environment={}))
    assert shares.path.exists()
    assert (work.datasets / ("b" * 16)).exists()
    done = list(remove(work, [shares, alone], with_data=True, is_dry=False, environment={}))
    assert [line.replace("would remove", "removed") for line in dry] == done
    assert done[2:] == [f"kept dataset {'a' * 16}: run stays may use it", f"removed dataset {'b' * 16}: 5.0 kB"]
    assert [path.name for path in work.runs.iterdir()] == ["stays"]
    assert [path.name for path in work.datasets.iterdir()] == ["a" * 16]
    assert not list(work.bin.iterdir())


def test_a_dataset_that_an_unreadable_run_or_one_under_way_may_use_is_kept(work: Work) -> None:
    one, two = make_run(work, "one", dataset="a" * 16), make_run(work, "two", dataset="b" * 16)
    damaged = make_run(work, "damaged", dataset="c" * 16)
    damaged.record_file("prepare").write_text("{")
    done = list(remove(work, [one], with_data=True, is_dry=False, environment={}))
    assert done[1] == f"kept dataset {'a' * 16}: run damaged may use it"
    damaged.record_file("prepare").unlink()
    with RunLock(damaged):  # it is about to use some dataset
        done = list(remove(work, [two], with_data=True, is_dry=False, environment={}))
    assert done[1] == f"kept dataset {'b' * 16}: run damaged may use it"


def test_a_copied_run_does_not_remove_the_dataset_of_the_original(work: Work, tmp_path: Path) -> None:
    make_run(work, "r")
    shutil.copytree(work.path, tmp_path / "copy")
    copy = Work(tmp_path / "copy")
    done = list(remove(copy, [RunDir(copy.runs / "r")], with_data=True, is_dry=False, environment={}))
    assert len(done) == 1
    assert list(work.datasets.iterdir())


def test_a_removal_that_takes_long_is_not_stopped_by_its_own_lock(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.lease._REFRESH_SECONDS", 0.05)
    delete = shutil.rmtree

    def slowly(*arguments: Any, **options: Any) -> None:
        time.sleep(0.3)  # six refreshes
        delete(*arguments, **options)

    monkeypatch.setattr("shutil.rmtree", slowly)
    run = make_run(work, "r")
    assert len(list(remove(work, [run], with_data=True, is_dry=False, environment={}))) == 2


def test_without_the_option_the_dataset_stays(work: Work) -> None:
    run = make_run(work, "r")
    list(remove(work, [run], with_data=False, is_dry=False, environment={}))
    assert list(work.datasets.iterdir())


def test_a_run_in_use_is_not_removed_and_neither_are_the_others(work: Work) -> None:
    idle, busy, torn = make_run(work, "idle"), make_run(work, "busy"), make_run(work, "torn")
    (torn.path / "lock.json").write_text("{")
    with pytest.raises(InputError, match="names no process"):
        list(remove(work, [idle, torn], with_data=False, is_dry=False, environment={}))
    assert idle.path.exists()
    with RunLock(busy), pytest.raises(InputError, match="run busy: a process is working on it"):
        list(remove(work, [idle, busy], with_data=False, is_dry=False, environment={}))
    assert idle.path.exists()


def test_a_run_that_a_registered_model_needs_is_not_removed(work: Work) -> None:
    run = make_run(work, "last")
    folder = RetrainDir(work, "letters")
    folder.make()
    folder.write(State(run_id="last", inputs=Inputs(settings="", content="", seen=()), event="rejected", text=""))
    with pytest.raises(InputError, match="run last: is needed by the registered model letters"):
        list(remove(work, [run], with_data=False, is_dry=False, environment={}))
    assert run.path.exists()


# --- the command


def test_the_command_lists_filters_and_refuses_in_one_line(work: Work, idxtrain: Idxtrain) -> None:
    for number in range(3):
        make_run(work, f"r{number}", age=100 - number)
    listed = idxtrain("runs", "--work", work.path, "--limit", 2)
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["run", "r2", "r1", "…"], listed.stderr
    assert json.loads(idxtrain("runs", "--work", work.path, "--json").stdout)[0]["run_id"] == "r2"
    assert idxtrain("runs", "--only", "state=trained", "--work", work.path).stdout.splitlines() == [
        "run  recipe  data  seed  state  test  validation  size  age"
    ]
    shown = idxtrain("runs", "show", "r1", "--work", work.path)
    assert shown.stdout.startswith("run r1: finished\n"), shown.stderr
    assert "total" in idxtrain("runs", "du", "--work", work.path).stdout
    removed = idxtrain("runs", "rm", "r0", "r1", "--work", work.path)
    assert removed.stdout.count("removed run ") == 2, removed.stderr
    for arguments, words in (
        (("show", "none"), "--run-id none: found no such run"),
        (("rm", "../r2"), "'../r2': expected letters, digits"),
    ):
        refused = idxtrain("runs", *arguments, "--work", work.path)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
        assert words in refused.stderr
    misplaced = idxtrain("runs", "--work", work.path, "show", "r2")
    assert misplaced.returncode == 2
    assert "idxtrain: --work: found before show, expected only for the list of runs; fix: put it after show" in (
        misplaced.stderr
    )
    nowhere = idxtrain("runs", "--work", work.path / "none")
    assert (nowhere.returncode, nowhere.stderr.count("found no such folder")) == (2, 1)
