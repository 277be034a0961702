"""Labels that plan, run and fetch read before prepare does: one-hot archives, and test classes unseen in training."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from typer.testing import CliRunner

from jobs import archive_labels
from jobs.archive_labels import column_in
from jobs.description import Description
from jobs.errors import InputError
from jobs.fetch.config import FetchConfig
from jobs.fetch.stage import fetch
from jobs.fetch.test_pair import fetch_test_pair
from jobs.label_options import ONE_HOT, LabelOptions
from jobs.prepare import idx
from jobs.prepare.config import PrepareConfig
from jobs.prepare.inputs import Inputs
from jobs.records import FetchOutputs
from pipelines.cli import app
from tests.conftest import Idxtrain
from tests.test_splits import archives_of, split

LABELS = np.tile(np.array([2, 0, 1, 2], np.uint8), 30)
HOT = np.eye(3, dtype=np.uint8)


def put(folder: Path, train: NDArray[Any], test: NDArray[Any] | None = None) -> Path:
    """Write a folder of archives with these labels."""
    archives_of(folder, train, test)
    return folder


def fetched(folder: Path, options: LabelOptions = LabelOptions()) -> FetchOutputs:  # noqa: B008
    config = FetchConfig(dataset="mine", data=str(folder))
    return fetch(config, folder.parent / "archives", folder.parent / "locks", options)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_exactly_the_archives_of_one_one_per_row_are_one_hot(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("labels") / "labels"
    columns = data.draw(st.integers(1, 4))
    rows = data.draw(st.lists(st.lists(st.integers(-1, 2), min_size=columns, max_size=columns), max_size=4))
    if data.draw(st.booleans()):
        rows = [[int(column == row[0] % columns) for column in range(columns)] for row in rows]
    idx.write(path, np.array(rows, np.int8).reshape(-1, columns))
    hot = [columns > 1 and sorted(row) == [0] * (columns - 1) + [1] for row in rows]
    paths, headers = {"train_labels": path}, {"train_labels": idx.read_header(path)}
    assert column_in(paths, headers, 0) == 0
    if columns > 2 and {number for row in rows for number in row} <= {0, 1} and len(hot) / 2 < sum(hot) < len(hot):
        with pytest.raises(InputError, match=rf"found row {hot.index(False)} \(from 0\) not one-hot"):
            column_in(paths, headers, None)
    else:
        assert column_in(paths, headers, None) == (ONE_HOT if hot and all(hot) else 0)


@pytest.mark.parametrize(
    ("at", "where", "like"),
    [("train", "train", "t10k-labels"), ("test", "t10k", "train-labels"), ("both", "train", "most rows")],
)
def test_a_row_that_is_not_one_hot_among_rows_that_are_is_refused_unless_a_column_is_named(
    tmp_path: Path, at: str, where: str, like: str
) -> None:
    train, test = HOT[LABELS], HOT[LABELS[:6]]
    for labels, name in ((train, "train"), (test, "test")):
        labels[4] *= at not in (name, "both")
    folder = put(tmp_path / "data", train, test)
    message = rf"/{where}-labels\S* found row 4 \(from 0\) not one-hot, expected one 1 and zeros as in {like}"
    with pytest.raises(InputError, match=message):
        fetched(folder)
    for command in ("plan", "inspect"):
        done = invoke(command, folder) if command == "plan" else CliRunner().invoke(app.app, ["inspect", str(folder)])
        assert "found row 4 (from 0) not one-hot" in done.output
    assert fetched(folder, LabelOptions(column=1)).description == Description()  # the option is the config's


def test_labels_of_several_columns_of_other_numbers_or_mostly_of_several_ones_are_not_taken_for_one_hot(
    tmp_path: Path,
) -> None:
    attributes = np.array([[0, 1, 1], [1, 0, 0], [1, 1, 0], [0, 0, 1]] * 5, np.uint8)
    assert fetched(put(tmp_path / "attributes", attributes)).description == Description()
    writers = np.stack([LABELS, np.arange(len(LABELS), dtype=np.uint8), LABELS], axis=1)
    assert fetched(put(tmp_path / "writers", writers)).description == Description()


def test_one_hot_labels_are_read_as_classes_unless_a_column_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "idxtrain")
    folder = put(tmp_path / "data", HOT[LABELS], LABELS[:6])  # of a pair, each archive may have its own form
    outputs = fetched(folder)
    assert outputs.description == Description(one_hot=True)
    said = "fetch: labels: one-hot, read as classes 0 to 2; prepare.label_column=N reads column N instead"
    assert caplog.messages[-1] == said
    made = split(tmp_path, dict(outputs.archives), outputs.description)
    plain = split(tmp_path, archives_of(tmp_path / "plain", LABELS, LABELS[:6]))
    assert made.labels == [0, 1, 2]
    assert made.counts == plain.counts
    assert made.rows["validation"].tolist() == plain.rows["validation"].tolist()
    assert fetched(folder, LabelOptions(column=1, unseen="count")).description == Description()
    (folder / "data.toml").write_text("label_column = 2")
    assert fetched(folder, LabelOptions(unseen="count")).description == Description(label_column=2)


def test_a_dataset_of_one_hot_labels_has_another_id_than_one_of_their_first_column(tmp_path: Path) -> None:
    outputs = fetched(put(tmp_path / "data", HOT[LABELS]))
    of_column = Inputs(PrepareConfig(label_column=0), outputs.archives, outputs.description)
    assert Inputs(PrepareConfig(), outputs.archives, outputs.description).dataset_id != of_column.dataset_id


def test_one_hot_labels_of_a_test_pair_alone_are_recognized(tmp_path: Path) -> None:
    folder = put(tmp_path / "data", LABELS, HOT[LABELS[:6]])
    for path in folder.glob("train*"):
        path.unlink()
    config = FetchConfig(dataset="mine", data=str(folder))
    assert fetch_test_pair(config).description.one_hot
    assert not fetch_test_pair(config, label_column=0).description.one_hot


def test_inspect_and_datasets_show_the_classes_of_one_hot_labels(tmp_path: Path, idxtrain: Idxtrain) -> None:
    folder = put(tmp_path / "data", HOT[LABELS], HOT[LABELS[:6]])
    assert "3 classes, counted by one-hot column" in idxtrain("inspect", folder).stdout
    assert "labels: one-hot, read as classes" in idxtrain("datasets", "--data", folder).stdout


def invoke(command: str, folder: Path, *options: str) -> Any:
    return CliRunner().invoke(
        app.app, [command, "--data", str(folder), "--work", str(folder.parent / "work"), *options]
    )


def test_plan_fetch_and_run_refuse_unseen_test_classes_as_prepare_does(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    archives = archives_of(folder, LABELS, np.array([1, 9, 2, 9, 3], np.uint8))
    with pytest.raises(InputError) as caught:
        split(tmp_path, archives)
    assert "found 3 of 5 rows with labels that training lacks: 3 (1), 9 (2); " in str(caught.value)
    for command in ("plan", "fetch", "run"):
        done = invoke(command, folder)
        assert (done.exit_code, done.stderr) == (2, f"idxtrain: {caught.value}\n")
    assert not (tmp_path / "work").exists()
    with pytest.raises(InputError) as by_fetch:
        fetched(folder)
    assert str(by_fetch.value) == str(caught.value)


def test_plan_shows_the_classes_and_the_test_rows_that_are_left(tmp_path: Path) -> None:
    folder = put(tmp_path / "data", LABELS, np.array([1, 9, 2, 9, 3], np.uint8))
    ignoring = invoke("plan", folder, "--set", "prepare.unseen_classes=ignore").stdout
    assert "classes     3; 3 test images of others: 3 (1), 9 (2); without test images: 0 (30)\n" in ignoring
    assert "test        2 rows in 1 shard of 2 rows\n" in ignoring
    counting = invoke("plan", folder, "--set", "prepare.unseen_classes=count").stdout
    assert "test        5 rows in 1 shard of 5 rows\n" in counting


def test_plan_shows_at_most_how_many_classes_rows_that_are_left_out_leave(tmp_path: Path) -> None:
    folder = put(tmp_path / "data", LABELS, LABELS[:6])
    (tmp_path / "list.csv").write_text("role,row\ntrain,0\n")
    done = invoke("plan", folder, "--set", f"prepare.exclude={tmp_path / 'list.csv'}")
    assert "classes     at most 3\n" in done.stdout


def test_many_labels_are_left_to_prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = put(tmp_path / "data", LABELS, np.array([9], np.uint8))
    monkeypatch.setattr(archive_labels, "SMALL_BYTES", len(LABELS))
    done = invoke("plan", folder)
    assert "classes     prepare counts them, and checks those of the test images\n" in done.stdout


def test_a_label_column_of_an_option_is_refused_by_fetch_as_by_plan(tmp_path: Path) -> None:
    folder = put(tmp_path / "data", np.stack([LABELS, LABELS], axis=1))
    message = r"found 2 columns, expected the label in column 2 \(from 0\); fix: set prepare\.label_column"
    with pytest.raises(InputError, match=message):
        fetched(folder, LabelOptions(column=2))
    (folder / "data.toml").write_text("label_column = 2")
    with pytest.raises(InputError, match=message):
        fetched(folder)
    assert fetched(folder, LabelOptions(column=1)).description.label_column == 2  # the option decides
