"""Several training pairs without a test pair: each gives test rows of its own, and a further pair moves none."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs import dataset, segments
from jobs.dataset import SPLITS
from jobs.description import Description
from jobs.errors import InputError
from jobs.fetch.config import FetchConfig
from jobs.fetch.stage import fetch
from jobs.places import Places
from jobs.prepare import idx
from jobs.prepare.compose import read_pairs
from jobs.prepare.config import PrepareConfig, SparkConfig
from jobs.prepare.inputs import Inputs
from jobs.prepare.stage import prepare
from jobs.run_dir import Work
from pipelines.config import compose
from pipelines.plan import lines, plan_training
from tests.conftest import MakeArchives
from tests.test_segments import add_pair

CONFIG = PrepareConfig(rows_per_shard=64)


def fetched(folder: Path, *, is_retraining: bool = False) -> dict[str, Any]:
    config = FetchConfig(dataset="own", data=str(folder), segments=is_retraining)
    return dict(fetch(config, folder.parent / "archives", folder.parent / "locks").archives)


@pytest.fixture
def folder(tmp_path: Path, make_archives: MakeArchives) -> Path:
    """Return a folder of the pairs a and b, of 130 and 70 rows, without a test pair."""
    (tmp_path / "data").mkdir()
    add_pair(tmp_path / "data", "a", make_archives, tmp_path)
    add_pair(tmp_path / "data", "b", make_archives, tmp_path, rows=70)
    return tmp_path / "data"


def places(directory: Path) -> dict[tuple[str, int], str]:
    """Return the split of each archive row of a dataset, by tag and row."""
    manifest = dataset.read_manifest(directory)
    dataset.verify(directory, manifest, *SPLITS)
    found = Places(directory, manifest)
    made: dict[tuple[str, int], str] = {}
    for split in SPLITS:
        for index in dataset.read_split(directory, manifest, split)[2].tolist():
            place = found.of(split, index)
            assert place.role == "train"
            assert (place.tag, place.row) not in made
            made[place.tag, place.row] = split
    return made


@pytest.mark.long
def test_a_further_pair_gives_its_own_test_rows_and_moves_no_row_of_the_others(
    folder: Path, tmp_path: Path, make_archives: MakeArchives
) -> None:
    work = Work(tmp_path / "work")
    before = prepare(CONFIG, SparkConfig(), fetched(folder), work)
    add_pair(folder, "c", make_archives, tmp_path, rows=50)
    after = prepare(CONFIG, SparkConfig(), fetched(folder), work)
    assert places(after).items() >= places(before).items()
    assert len(places(after)) == 130 + 70 + 50
    ids = [segments.segment_ids(directory) for directory in (before, after)]
    assert ids[1] > ids[0]
    assert [len(each) for each in ids] == [2, 3]  # none of a test pair
    manifest = dataset.read_manifest(after)
    assert {split: info.rows for split, info in manifest.splits.items()} == {"train": 206, "validation": 19, "test": 25}
    assert manifest.options["test_from"] == "each training archive, stratified"
    assert min(manifest.splits["test"].label_counts) > 0
    settings = {"fetch.data": str(folder), "fetch.dataset": "own", "prepare.rows_per_shard": 64}
    planned = plan_training(compose("fast", settings, ["train.batch_size=8"]), work, 1)
    assert planned.shards == {
        split: tuple(shard.rows for shard in info.shards) for split, info in manifest.splits.items()
    }
    assert "test        25 rows in 3 shards of 5 to 13 rows" in lines(planned)


def test_each_pair_gives_its_test_rows_whatever_is_excluded(folder: Path, tmp_path: Path) -> None:
    def pairs(**options: Any) -> list[Any]:
        inputs = Inputs(PrepareConfig(**options), fetched(folder), Description())
        test, training = read_pairs(inputs, tmp_path / "scratch")
        assert test is None
        return training

    (tmp_path / "scratch").mkdir()
    chosen = [pair.test_rows for pair in pairs()]
    assert [len(rows) for rows in chosen] == [13, 7]
    excluded = np.union1d(np.arange(5), chosen[0][:2])
    (tmp_path / "list.csv").write_text("role,row,tag\n" + "".join(f"train,{row},a\n" for row in excluded))
    listed = pairs(exclude=str(tmp_path / "list.csv"))
    assert [pair.test_rows.tolist() for pair in listed] == [rows.tolist() for rows in chosen]
    assert set(listed[0].excluded) == set(excluded.tolist()) - set(chosen[0].tolist())
    assert [len(pair.test_rows) for pair in pairs(test_rows=20)] == [20, 20]


def test_a_pair_that_is_too_small_gives_no_test_rows_with_one_warning_that_names_it(
    folder: Path, tmp_path: Path, make_archives: MakeArchives, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "idxtrain")
    (tmp_path / "scratch").mkdir()
    add_pair(folder, "one", make_archives, tmp_path, rows=1)
    add_pair(folder, "few", make_archives, tmp_path, rows=10)
    (labels,) = folder.glob("train-labels-few*")
    idx.write(labels, np.arange(10, dtype=np.uint8))  # one image per class
    caplog.clear()
    _, training = read_pairs(Inputs(CONFIG, fetched(folder), Description()), tmp_path / "scratch")
    given = {pair.tag: len(pair.test_rows) for pair in training if pair.test_rows is not None}
    assert given == {"a": 13, "b": 7, "one": 0, "few": 0}
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["prepare: no test rows of pair few, pair one: too few images of each class"]
    assert "no test archive: 13 rows of train-labels-a-idx1-ubyte make the test split (stratified)" in caplog.text
    settings = {"fetch.data": str(folder), "fetch.dataset": "own"}
    planned = plan_training(compose("fast", settings, ["train.batch_size=8"]), Work(tmp_path / "work"), 1)
    assert [len(planned.shards[split]) for split in SPLITS[::2]] == [4, 3]  # by the headers, of `few`, too
    for tag in ("a", "b"):
        for path in folder.glob(f"*-{tag}-*"):
            path.unlink()
    with pytest.raises(InputError, match=r"^the test split: found no test archive, and too few training images"):
        read_pairs(Inputs(CONFIG, fetched(folder), Description()), tmp_path / "scratch")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (70, "expected fewer than the 70 rows of train-images-b-idx3-ubyte, of which"),
        (69, r"expected at most 6\d of train-labels-b-idx1-ubyte, as each class keeps one row"),
    ],
)
def test_more_test_rows_than_a_pair_can_give_are_refused_with_its_name(
    folder: Path, tmp_path: Path, rows: int, message: str
) -> None:
    (tmp_path / "scratch").mkdir()
    config = PrepareConfig(test_rows=rows, validation_rows=0)
    with pytest.raises(InputError, match=rf"^prepare\.test_rows: found {rows}, {message}"):
        read_pairs(Inputs(config, fetched(folder), Description()), tmp_path / "scratch")


def test_a_retraining_needs_a_test_pair_and_files_that_may_be_one_are_not_passed_over(folder: Path) -> None:
    with pytest.raises(InputError, match="found no test pair, expected one that all trainings share"):
        fetched(folder, is_retraining=True)
    (folder / "t10k-images-idx3-ubyte").write_bytes((folder / "train-images-b-idx3-ubyte").read_bytes())
    with pytest.raises(InputError, match="found no archive for test_labels"):
        fetched(folder)
