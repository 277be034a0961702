"""A test pair becomes a dataset for the model of a finished run: classes, normalization, copies of training images."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from jobs.dataset import MANIFEST, Manifest, Shard, SplitInfo, read_manifest, read_split, verify
from jobs.description import Description
from jobs.errors import InputError
from jobs.fetch.config import FetchConfig
from jobs.fetch.test_pair import fetch_test_pair
from jobs.files import sealed, sha256_file, write_json
from jobs.prepare import idx
from jobs.prepare.config import PrepareConfig
from jobs.prepare.inputs import Inputs
from jobs.prepare.test_pair import make_test_dataset
from tests.support.prepared import bare_manifest
from tests.support.real_data import real_data

IMAGES = np.random.default_rng(7).integers(0, 256, (6, 4, 5), np.uint8)
LABELS = (30, 10, 20, 10, 30, 30)


@pytest.fixture
def trained_on(tmp_path: Path) -> Path:
    """Return the dataset of a run: classes 10, 20 and 30, named A, B and C, and two training images."""
    folder = tmp_path / "trained"
    path = folder / "train/part-00000.parquet"
    path.parent.mkdir(parents=True)
    pixels = (IMAGES[:2].reshape(2, -1) / 255).astype(np.float32).tolist()
    columns = {"image": pa.array(pixels, pa.list_(pa.float32())), "label": pa.array([0, 1], pa.int32())}
    pq.write_table(pa.table(columns | {"index": pa.array([4, 9], pa.int64())}), path)
    shard = Shard(
        path="train/part-00000.parquet", rows=2, first_index=4, bytes=path.stat().st_size, sha256=sha256_file(path)
    )
    manifest = bare_manifest((4, 5, 1), 3, SplitInfo(rows=2, label_counts=(1, 1, 0), shards=(shard,)).model_dump())
    manifest = manifest.model_copy(update={"labels": (10, 20, 30), "class_names": ("A", "B", "C")})
    write_json(folder / MANIFEST, sealed(manifest.model_dump(mode="json")))
    return folder


def put_pair(folder: Path, images: NDArray[Any], labels: tuple[int, ...] = LABELS) -> Path:
    folder.mkdir()
    idx.write(folder / "X_other.idx3", images)
    idx.write(folder / "y_other.idx1", np.array(labels, np.int16))
    return folder


def made_of(
    folder: Path, trained_on: Path, description: Description | None = None, **options: Any
) -> tuple[Manifest, NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return the manifest, images, class numbers and rows of the dataset made of the pair in a folder."""
    fetched = fetch_test_pair(FetchConfig(dataset="other", data=str(folder)))
    inputs = Inputs(PrepareConfig(**options), fetched.archives, description or fetched.description)
    make_test_dataset(inputs, trained_on, folder / "dataset")
    manifest = read_manifest(folder / "dataset")
    verify(folder / "dataset", manifest, "test")
    return manifest, *read_split(folder / "dataset", manifest, "test")


def test_the_pair_is_normalized_and_numbered_as_the_dataset_of_the_run(tmp_path: Path, trained_on: Path) -> None:
    folder = put_pair(tmp_path / "other", 255 - IMAGES)
    manifest, images, numbers, rows = made_of(folder, trained_on)
    assert (manifest.labels, manifest.class_names, manifest.classes) == ((10, 20, 30), ("A", "B", "C"), 3)
    assert (images[..., 0] == ((255 - IMAGES) / 255).astype(np.float32)).all()
    assert (numbers.tolist(), rows.tolist()) == ([2, 0, 1, 0, 2, 2], [0, 1, 2, 3, 4, 5])
    assert manifest.splits["test"].label_counts == (2, 1, 3)
    assert (manifest.splits["train"].rows, manifest.duplicates.test_images_in_train) == (0, 0)
    assert manifest.sources["test_images"].name == "X_other.idx3"


def test_copies_of_training_images_are_counted(tmp_path: Path, trained_on: Path) -> None:
    manifest, *_ = made_of(put_pair(tmp_path / "other", IMAGES[::-1]), trained_on)
    assert manifest.duplicates.test_rows == (4, 5)
    assert manifest.duplicates.examples == ((4, 9), (5, 4))


def test_labels_that_the_run_lacks_are_counted_or_left_out(tmp_path: Path, trained_on: Path) -> None:
    names = Description(class_names={77: "Q"})
    labels = (10, 77, 20, 30, -1, 77)
    counted, _, numbers, _ = made_of(put_pair(tmp_path / "count", IMAGES, labels), trained_on, names)
    assert (counted.labels, counted.class_names) == ((10, 20, 30, -1, 77), ("A", "B", "C", "-1", "Q"))
    assert numbers.tolist() == [0, 4, 1, 2, 3, 4]
    folder = put_pair(tmp_path / "ignore", IMAGES, labels)
    ignored, _, numbers, rows = made_of(folder, trained_on, names, unseen_classes="ignore")
    assert (ignored.labels, ignored.options) == ((10, 20, 30), {"ignored_test_rows": 3})
    assert (numbers.tolist(), rows.tolist()) == ([0, 1, 2], [0, 2, 3])


def test_a_pair_that_lies_on_its_side_is_turned_upright(tmp_path: Path, trained_on: Path) -> None:
    folder = put_pair(tmp_path / "other", IMAGES.swapaxes(1, 2))
    _, images, *_ = made_of(folder, trained_on, orientation="transpose")
    assert (images[..., 0] == (IMAGES / 255).astype(np.float32)).all()


@pytest.mark.parametrize(
    ("images", "found"),
    [
        (IMAGES[:, :3], "found images 6 x 3 x 5 of uint8, expected 4 × 5 × 1 of uint8 as the model was trained on"),
        (IMAGES.astype(np.float32), "expected 4 × 5 × 1 of uint8 as the model was trained on"),
    ],
)
def test_images_that_the_model_cannot_take_are_refused(
    tmp_path: Path, trained_on: Path, images: NDArray[Any], found: str
) -> None:
    with pytest.raises(InputError, match=found):
        made_of(put_pair(tmp_path / "other", images), trained_on)


def test_a_folder_of_several_pairs_needs_the_options(tmp_path: Path) -> None:
    folder = real_data("kannada")
    with pytest.raises(InputError, match=r"expected one pair .* --test-images F --test-labels F"):
        fetch_test_pair(FetchConfig(dataset="other", data=str(folder / "..")))
    names = {"test_images": "X_dig_MNIST-idx3-ubyte.gz", "test_labels": "y_dig_MNIST-idx1-ubyte.gz"}
    given = {role: str(folder / name) for role, name in names.items()}
    fetched = fetch_test_pair(FetchConfig.model_validate({"dataset": "dig", **given}))
    assert {role: archive.path.name for role, archive in fetched.archives.items()} == names
    with pytest.raises(InputError, match="--test-labels: found none, expected both archives of a pair"):
        fetch_test_pair(FetchConfig(dataset="dig", test_images=given["test_images"]))


def test_archives_that_data_toml_names_may_be_gzip_and_are_checked(tmp_path: Path) -> None:
    folder = put_pair(tmp_path / "other", IMAGES)
    for name in ("X_other.idx3", "y_other.idx1"):
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
        (folder / name).unlink()
    named = '[archives.train_images]\nname = "gone"\n[archives.test_images]\nname = "X_other.idx3"\n'
    (folder / "data.toml").write_text(named + '[archives.test_labels]\nname = "y_other.idx1"\n')
    fetched = fetch_test_pair(FetchConfig(dataset="other", data=str(folder)))
    assert [archive.path.name for archive in fetched.archives.values()] == ["X_other.idx3.gz", "y_other.idx1.gz"]
    (folder / "y_other.idx1.gz").unlink()
    with pytest.raises(InputError, match=r"archives\.test_labels\.name: .*y_other.idx1: found no such file"):
        fetch_test_pair(FetchConfig(dataset="other", data=str(folder)))


def test_in_a_folder_the_files_called_test_come_first(tmp_path: Path) -> None:
    folder = put_pair(tmp_path / "other", IMAGES)
    idx.write(folder / "X_test.idx3", IMAGES)
    idx.write(folder / "y_test.idx1", np.array(LABELS, np.uint8))
    fetched = fetch_test_pair(FetchConfig(dataset="other", data=str(folder)))
    assert [archive.path.name for archive in fetched.archives.values()] == ["X_test.idx3", "y_test.idx1"]
    idx.write(folder / "test-images-b.idx3", IMAGES)
    (folder / "X_other.idx3").unlink()
    with pytest.raises(InputError, match="expected one pair of images and labels to evaluate on"):
        fetch_test_pair(FetchConfig(dataset="other", data=str(folder)))


def test_a_label_that_names_another_class_than_in_training_is_refused(tmp_path: Path, trained_on: Path) -> None:
    folder = put_pair(tmp_path / "other", 255 - IMAGES)
    with pytest.raises(InputError, match="found label 20 for C, expected B as in training; fix: "):
        made_of(folder, trained_on, Description(class_names={10: "A", 20: "C"}))
    other = put_pair(tmp_path / "as in training", 255 - IMAGES)
    manifest, *_ = made_of(other, trained_on, Description(class_names={10: "A", 20: "B"}))
    assert manifest.class_names == ("A", "B", "C")


def test_a_pair_that_is_named_after_training_is_evaluated_if_it_is_alone(tmp_path: Path) -> None:
    folder = tmp_path / "flat"
    folder.mkdir()
    idx.write(folder / "train-images-idx3-ubyte", IMAGES)
    idx.write(folder / "train-labels-idx1-ubyte", np.array(LABELS, np.int16))
    archives = fetch_test_pair(FetchConfig(dataset="flat", data=str(folder))).archives
    assert [each.path.name for each in archives.values()] == ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"]
