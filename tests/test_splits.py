"""Which archive row is in which split: decided by labels and groups before Spark starts, and read back by row."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from jobs.archive import Role
from jobs.dataset import SPLITS, Split
from jobs.description import Description
from jobs.errors import InputError
from jobs.prepare import idx
from jobs.prepare.archives import Pair, inflated, read_headers
from jobs.prepare.assign import assign
from jobs.prepare.config import PrepareConfig
from jobs.prepare.exclusions import read_exclusions
from jobs.prepare.inputs import Inputs, check_options
from jobs.prepare.plan import plan_dataset
from jobs.prepare.row_files import RowFiles
from jobs.prepare.stage import prepare
from jobs.run_dir import Work
from tests.conftest import put_archive
from tests.support.prepared import NO_SPARK, Archives
from tests.support.real_data import real_data

RULES = ("first", "last", "spread", "stratified", "group", "fold:2/3", "grouped fold:2/3")


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The archive rows of each split, the labels by class number, and the images of each class in each split.

    `excluded`: how many rows were left out.
    """

    rows: Mapping[Split, NDArray[Any]]
    labels: list[int]
    counts: Mapping[Split, list[int]]
    excluded: int


def archives_of(folder: Path, train: NDArray[Any], test: NDArray[Any] | None = None) -> Archives:
    """Write archives of these labels and of images of 1 × 1 pixel."""
    made: Archives = {}
    folder.mkdir(exist_ok=True)
    for split, labels in (("train", train), ("test", test)):
        if labels is not None:
            arrays: dict[Role, NDArray[Any]] = {
                f"{split}_images": np.zeros((len(labels), 1, 1), np.uint8),  # type: ignore[dict-item]
                f"{split}_labels": labels,  # type: ignore[dict-item]
            }
            made |= {role: put_archive(folder, role, array) for role, array in arrays.items()}
    return made


def split(folder: Path, archives: Archives, description: Description | None = None, **options: Any) -> Splits:
    """Assign the rows of archives as prepare does."""
    inputs = Inputs(PrepareConfig(**options), archives, description or Description())
    check_options(inputs.config, archives)
    headers = read_headers(archives, inputs.label_column)
    train = headers["train_labels"].rows
    test = headers["test_labels"].rows if "test_labels" in headers else None
    excluded = read_exclusions(inputs.config.exclude).of("", train)
    plan = plan_dataset(inputs.config, train, test, (1, 1), len(excluded))
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    labels = {role: archive for role, archive in archives.items() if role.endswith("labels")}
    with inflated(labels, scratch) as plain:
        made = assign(inputs, plan, headers, plain, np.array(excluded, np.int64), scratch)
    if plan.is_exact:
        assert made.rows == plan.rows
    rows = {each: np.array(RowFiles(scratch).whole(each)) for each in SPLITS}
    assert {each: len(rows[each]) for each in SPLITS} == made.rows
    return Splits(
        rows=rows,
        labels=made.classes.labels.tolist(),
        counts={each: made.label_counts[each].tolist() for each in SPLITS},
        excluded=made.excluded,
    )


@pytest.fixture
def sorted_by_class(tmp_path: Path) -> Archives:
    """Return archives of 120 training rows, sorted by class, and 30 test rows."""
    return archives_of(tmp_path / "data", np.repeat(np.array([3, 7, 9], np.uint8), 40), np.full(30, 7, np.uint8))


@pytest.mark.parametrize(
    ("where", "validation"), [("first", [0, 1, 2]), ("last", [117, 118, 119]), ("spread", [0, 40, 80])]
)
def test_rules_by_position(tmp_path: Path, sorted_by_class: Archives, where: str, validation: list[int]) -> None:
    made = split(tmp_path, sorted_by_class, validation_from=where, validation_rows=3)
    assert made.rows["validation"].tolist() == validation
    assert made.rows["train"].tolist() == sorted(set(range(120)) - set(validation))
    assert made.rows["test"].tolist() == list(range(30))


def test_by_default_every_class_of_a_sorted_archive_is_in_validation(tmp_path: Path, sorted_by_class: Archives) -> None:
    made = split(tmp_path, sorted_by_class)
    assert made.labels == [3, 7, 9]
    assert sorted(made.counts["validation"]) == [3, 3, 4]
    assert sum(made.counts["train"]) == 110
    assert made.counts["test"] == [0, 30, 0]
    assert made.rows["validation"].tolist() == split(tmp_path, sorted_by_class).rows["validation"].tolist()


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_splits_are_disjoint_and_cover_all_rows_but_the_excluded(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("split")
    random = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    total, has_test = data.draw(st.integers(30, 200)), data.draw(st.booleans())
    labels = random.choice([-4, 0, 5, 1000], total, p=[0.5, 0.3, 0.1, 0.1]).astype(np.int32)
    excluded = random.choice(total, data.draw(st.integers(0, 5)), replace=False)
    (folder / "list.csv").write_text("role,row\n" + "".join(f"train,{row}\n" for row in excluded))
    (folder / "groups.csv").write_text("".join(f"{group}\n" for group in random.integers(0, 12, total)))
    groups = np.array((folder / "groups.csv").read_text().split())
    rule = data.draw(st.sampled_from(RULES))
    # A class of which only test rows are left must not end an example.
    options: dict[str, Any] = {"validation_from": rule.removeprefix("grouped "), "unseen_classes": "count"}
    if rule.startswith("group"):
        options["groups"] = str(folder / "groups.csv")
    known = np.setdiff1d(labels, excluded)[:1].repeat(10)
    archives = archives_of(folder / "data", labels, known if has_test else None)
    without = split(folder, archives, **options)
    made = split(folder, archives, **options, exclude=str(folder / "list.csv"))
    assert made.rows["test"].tolist() == without.rows["test"].tolist()
    left_out = set(excluded.tolist()) - (set() if has_test else set(made.rows["test"].tolist()))
    parts = [made.rows["train"], made.rows["validation"], *([] if has_test else [made.rows["test"]])]
    assert sorted(np.concatenate(parts).tolist()) == sorted(set(range(total)) - left_out)
    for each in SPLITS:
        assert (np.diff(made.rows[each]) > 0).all()
        if each != "test" or not has_test:
            stored = labels[made.rows[each]]
            assert made.counts[each] == [int((stored == label).sum()) for label in made.labels]
    if "groups" in options:
        sides = [set(groups[rows]) for rows in parts]
        assert sum(map(len, sides)) == len(set.union(*sides))


def test_folds_are_disjoint_and_cover_everything(tmp_path: Path, sorted_by_class: Archives) -> None:
    folds = [split(tmp_path, sorted_by_class, validation_from=f"fold:{number}/7") for number in range(1, 8)]
    assert sorted(np.concatenate([fold.rows["validation"] for fold in folds]).tolist()) == list(range(120))
    assert all(min(fold.counts["validation"]) >= 5 for fold in folds)


def test_a_missing_test_split_is_made_stratified_and_each_class_stays_in_training(tmp_path: Path) -> None:
    labels = np.repeat(np.array([5, 6, 300], np.int16), [100, 99, 1])
    made = split(tmp_path, archives_of(tmp_path / "data", labels))
    assert made.counts == {"train": [82, 81, 1], "validation": [8, 8, 0], "test": [10, 10, 0]}
    with pytest.raises(InputError, match=r"^prepare\.test_rows: found 50 beside test archives, expected none"):
        split(tmp_path, archives_of(tmp_path / "both", labels, labels), test_rows=50)


def test_excluded_rows_of_a_made_test_split_stay_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(logging.getLogger("idxtrain"), "warning", lambda text, *values: lines.append(text % values))
    archives = archives_of(tmp_path / "data", np.tile(np.array([1, 2], np.uint8), 100))
    before = split(tmp_path, archives)
    listed = [*before.rows["test"][:3], *before.rows["train"][:20], *before.rows["validation"][:2]]
    (tmp_path / "list.csv").write_text("role,row\n" + "".join(f"train,{row}\n" for row in listed))
    made = split(tmp_path, archives, exclude=str(tmp_path / "list.csv"))
    assert made.rows["test"].tolist() == before.rows["test"].tolist()
    assert not set(listed[3:]) & {*made.rows["train"], *made.rows["validation"]}
    assert made.excluded == 22
    assert sum(map(len, made.rows.values())) == 200 - 22
    assert lines == ["prepare: 3 excluded rows are in the test split, and stay"]


def test_a_class_whose_training_rows_are_all_excluded_is_unseen_in_a_made_test_split(tmp_path: Path) -> None:
    labels = np.repeat(np.array([1, 2, 255], np.uint8), 20)
    (tmp_path / "garbage.csv").write_text("role,row\n" + "".join(f"train,{row}\n" for row in range(40, 60)))
    archives = archives_of(tmp_path / "data", labels)
    with pytest.raises(InputError, match=r"found 2 of 6 rows with labels that training lacks: 255 \(2\)"):
        split(tmp_path, archives, exclude=str(tmp_path / "garbage.csv"))
    made = split(tmp_path, archives, exclude=str(tmp_path / "garbage.csv"), unseen_classes="ignore")
    assert (made.labels, made.counts["test"]) == ([1, 2], [2, 2])


def test_one_image_a_class_leaves_no_rows_to_hold_out(tmp_path: Path) -> None:
    labels = np.arange(24, dtype=np.uint8)
    made = split(tmp_path, archives_of(tmp_path / "data", labels, labels), validation_rows=0)
    assert made.counts["train"] == [1] * 24
    with pytest.raises(
        InputError, match=r"^prepare\.validation_rows: found 2, expected at most 0, as each class keeps"
    ):
        split(tmp_path, archives_of(tmp_path / "data", labels, labels), validation_rows=2)
    with pytest.raises(InputError, match=r"^the test split: found no test archive, and too few training images"):
        split(tmp_path, archives_of(tmp_path / "alone", labels), validation_rows=0)


def test_labels_may_be_sparse_negative_and_in_a_column(tmp_path: Path) -> None:
    labels = np.zeros((40, 3), np.int32)
    labels[:, 1] = np.tile([-70_000, 12, 12, 2**31 - 1], 10)
    archives = archives_of(tmp_path / "data", labels, labels[:6])
    made = split(tmp_path, archives, label_column=1)
    assert made.labels == [-70_000, 12, 2**31 - 1]
    assert made.counts["test"] == [2, 3, 1]
    assert split(tmp_path, archives, Description(label_column=1)).labels == made.labels
    with pytest.raises(InputError, match=r"found 3 columns, expected the label in column 3 \(from 0\)"):
        split(tmp_path, archives, label_column=3)


def test_classes_are_those_of_the_rows_that_are_not_excluded(tmp_path: Path) -> None:
    labels = np.tile(np.array([1, 2, 255], np.uint8), 10)
    (tmp_path / "garbage.csv").write_text("role,row\n" + "".join(f"train,{row}\n" for row in range(2, 30, 3)))
    archives = archives_of(tmp_path / "data", labels, labels[:2])
    assert split(tmp_path, archives, exclude=str(tmp_path / "garbage.csv")).labels == [1, 2]


def test_unseen_test_classes_are_refused_ignored_or_counted(tmp_path: Path) -> None:
    train, test = np.tile(np.array([1, 2], np.uint8), 20), np.array([1, 9, 2, 9, 3], np.uint8)
    archives = archives_of(tmp_path / "data", train, test)
    work = Work(tmp_path / "work")
    path = re.escape(str(archives["test_labels"].path))
    with pytest.raises(InputError, match=rf"^{path}: found 3 of 5 rows with labels that training lacks: 3 \(1\), 9 "):
        prepare(PrepareConfig(), NO_SPARK, archives, work)  # before Spark starts, and so before anything is written
    assert not list(work.datasets.iterdir())
    ignoring = split(tmp_path, archives, unseen_classes="ignore")
    assert ignoring.rows["test"].tolist() == [0, 2]
    assert (ignoring.labels, ignoring.counts["test"]) == ([1, 2], [1, 1])
    counting = split(tmp_path, archives, unseen_classes="count")
    assert (counting.labels, counting.counts["test"]) == ([1, 2, 3, 9], [1, 1, 1, 2])
    assert counting.counts["train"][2:] == [0, 0]


def test_too_few_groups_are_refused(tmp_path: Path, sorted_by_class: Archives) -> None:
    (tmp_path / "groups.csv").write_text("a\n" * 60 + "b\n" * 60)
    groups = str(tmp_path / "groups.csv")
    made = split(tmp_path, sorted_by_class, validation_from="group", groups=groups)
    assert (len(made.rows["train"]), len(made.rows["validation"])) == (60, 60)
    with pytest.raises(InputError, match=r"^prepare\.groups: found 2 groups, expected at least 3 for 3 folds; fix: "):
        split(tmp_path, sorted_by_class, validation_from="fold:1/3", groups=groups)
    training = {role: archive for role, archive in sorted_by_class.items() if role.startswith("train")}
    with pytest.raises(InputError, match=r"expected at least 3 for a training, a validation and a test split"):
        split(tmp_path, training, validation_from="group", groups=groups)


def test_a_test_split_that_leaves_too_few_groups_is_refused_with_its_option(
    tmp_path: Path, sorted_by_class: Archives
) -> None:
    (tmp_path / "groups.csv").write_text("a\n" * 50 + "b\n" * 40 + "c\n" * 30)
    options: dict[str, Any] = {"validation_from": "group", "groups": str(tmp_path / "groups.csv")}
    training = {role: archive for role, archive in sorted_by_class.items() if role.startswith("train")}
    message = (
        r"^prepare\.groups: found 1 group outside the test split, expected at least 2 for a training and a validation "
        r"split; fix: lower prepare\.test_rows$"
    )
    with pytest.raises(InputError, match=message):
        split(tmp_path, training, test_rows=100, **options)
    assert split(tmp_path, training, test_rows=20, **options).rows["validation"].any()


def test_options_that_several_pairs_cannot_have_are_refused() -> None:
    pairs = ["train_images@a", "train_labels@a"]
    check_options(PrepareConfig(test_rows=5), pairs)  # each pair gives test rows
    grouped = PrepareConfig(validation_from="group", groups="g.csv")
    with pytest.raises(InputError, match=r"^prepare\.groups: found a file for a data set of several training pairs"):
        check_options(grouped, [*pairs, "test_images", "test_labels"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"validation_from": "fold:0/5"}, "found 'fold:0/5', expected one of first, last, spread, stratified, group, "),
        ({"validation_from": "fold:6/5"}, "found 'fold:6/5', expected one of"),
        ({"validation_from": "fold:1/1"}, "found 'fold:1/1', expected one of"),
        ({"validation_from": "middle"}, "found 'middle', expected one of"),
        ({"validation_from": "group"}, "found validation_from=group without groups, expected both"),
        ({"groups": "g.csv"}, "found groups with validation_from=stratified, which has a group on both sides"),
        (
            {"validation_from": "fold:1/5", "validation_rows": 3},
            "found validation_rows=3 with validation_from=fold:1/5",
        ),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        PrepareConfig(**options)


def test_rows_far_apart_are_read_without_those_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (400, 5, 5), np.uint8)
    idx.write(tmp_path / "images", images)
    idx.write(tmp_path / "labels", np.zeros(400, np.uint8))
    one, other = tmp_path / "images", tmp_path / "labels"
    headers: dict[str, Any] = {"image_header": idx.read_header(one), "label_header": idx.read_header(other)}
    pair = Pair(images=one, labels=other, image_archive=one, label_archive=other, **headers)
    spans: list[int] = []
    real = idx.read_rows

    def read(path: Path, header: idx.Header, start: int, stop: int) -> NDArray[Any]:
        spans.append(stop - start)
        return real(path, header, start, stop)

    monkeypatch.setattr(idx, "read_rows", read)
    monkeypatch.setattr("jobs.prepare.archives._WINDOW_BYTES", 10 * 25)
    rows = np.array([3, 4, 12, 13, 14, 399])
    assert (pair.read_images(rows) == images[rows]).all()
    assert max(spans) <= 10


def test_no_writer_of_mnist_is_in_training_and_validation(tmp_path: Path) -> None:
    """QMNIST states the writer of each row of MNIST's training archive."""
    (path,) = real_data("qmnist").glob("*train*")
    table = idx.read(path)
    archives = archives_of(tmp_path / "data", table[:, 0].astype(np.uint8), np.arange(10, dtype=np.uint8))
    made = split(tmp_path, archives, validation_from="group", groups=str(path), group_column=2)
    writers = [set(table[made.rows[each], 2].tolist()) for each in ("train", "validation")]
    assert not writers[0] & writers[1]
    assert abs(len(made.rows["validation"]) - 5_000) < 100
    digits = np.bincount(table[:, 0]) / len(table)
    held_out = np.array(made.counts["validation"]) / len(made.rows["validation"])
    assert np.abs(held_out - digits).max() < 0.0025  # without regard to digits: 0.0035
    stratified = split(tmp_path, archives)
    # MNIST's even rows are of one series of writers: each twelfth row would be, too.
    of_students = table[:, 1] == 4
    spread = split(tmp_path, archives, validation_from="spread")
    assert of_students[spread.rows["validation"]].mean() > 0.95
    assert abs(of_students[stratified.rows["validation"]].mean() - of_students.mean()) < 0.02
    shared = [set(table[stratified.rows[each], 2].tolist()) for each in ("train", "validation")]
    assert len(shared[0] & shared[1]) > 400
