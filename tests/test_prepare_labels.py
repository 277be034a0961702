"""Whole datasets of odd labels, without a test archive, lying on their side, and of several pairs with other labels."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from jobs import dataset, segments
from jobs.archive import Archive, Role
from jobs.dataset import SPLITS, Manifest
from jobs.description import Description
from jobs.prepare import idx
from jobs.prepare.config import PrepareConfig, SparkConfig
from jobs.prepare.stage import prepare
from jobs.run_dir import Work
from tests.conftest import describe

ROWS = 240


def put(folder: Path, role: Role, array: NDArray[Any], tag: str | None = None) -> dict[str, Archive]:
    """Write an archive, of a tagged pair if there is a tag; return it by its key."""
    path = folder / f"{role}-{tag or ''}"
    folder.mkdir(exist_ok=True)
    idx.write(path, array)
    return {role if tag is None else segments.key(role, tag): describe(role, path)}


def pixels(rows: int, seed: int) -> NDArray[Any]:
    return np.random.default_rng(seed).integers(0, 256, (rows, 4, 6), np.uint8)


def require_content(
    directory: Path, manifest: Manifest, split: dataset.Split, images: NDArray[Any], labels: NDArray[Any]
) -> NDArray[Any]:
    """Check a split's rows against the archive, image by image; return the archive rows."""
    stored, numbers, rows = dataset.read_split(directory, manifest, split)
    assert (stored[..., 0] == (images[rows] / 255).astype(np.float32)).all()
    assert np.array(manifest.labels)[numbers].tolist() == labels[rows].tolist()
    expected = np.bincount(numbers, minlength=len(manifest.labels))
    assert manifest.splits[split].label_counts == tuple(expected.tolist())
    return rows


def test_a_data_set_of_odd_labels_without_a_test_archive_is_prepared_upright(tmp_path: Path) -> None:
    images = pixels(ROWS, 1)
    columns = np.zeros((ROWS, 2), np.int32)
    columns[:, 1] = np.repeat([-3, 0, 70_000], ROWS // 3)
    archives = put(tmp_path, "train_images", images) | put(tmp_path, "train_labels", columns)
    (tmp_path / "list.csv").write_text("role,row\ntrain,5\ntrain,100\n")
    config = PrepareConfig(rows_per_shard=50, exclude=str(tmp_path / "list.csv"))
    description = Description(orientation="transpose", label_column=1, class_names={-3: "minus", 70_000: "big"})
    directory = prepare(config, SparkConfig(), archives, Work(tmp_path / "work"), description)
    manifest = dataset.read_manifest(directory)
    dataset.verify(directory, manifest, *SPLITS)
    assert manifest.shape == (6, 4, 1)
    assert manifest.labels == (-3, 0, 70_000)
    assert manifest.class_names == ("minus", "0", "big")
    assert manifest.orientation == "transpose"
    assert {split: info.rows for split, info in manifest.splits.items()} == {"train": 195, "validation": 19, "test": 24}
    assert manifest.options == {
        "validation_from": "stratified",
        "rows_per_shard": 50,
        "test_from": "training archive, stratified",
        "excluded_rows": 2,
    }
    assert manifest.sources["exclude"].name == "list.csv"
    upright = images.swapaxes(1, 2)
    rows = [require_content(directory, manifest, split, upright, columns[:, 1]) for split in SPLITS]
    assert sorted(np.concatenate(rows).tolist()) == [row for row in range(ROWS) if row not in (5, 100)]
    assert all(min(manifest.splits[split].label_counts) > 0 for split in SPLITS)


@pytest.mark.long
def test_pairs_are_decoded_again_only_if_another_pair_changes_the_numbers_of_their_classes(tmp_path: Path) -> None:
    work = Work(tmp_path / "work")
    labels: Mapping[str, NDArray[Any]] = {
        "": np.tile(np.array([0, 1, 9], np.uint8), 20),
        "same": np.tile(np.array([1, 0], np.uint8), 30),
        "more": np.tile(np.array([5, 0, 1], np.uint8), 20),
    }
    test = np.array([9, 0, 5, 200, 1] * 2, np.uint8)
    images = {tag: pixels(60, seed) for seed, tag in enumerate(labels)}
    archives = put(tmp_path, "test_images", images[""][:10]) | put(tmp_path, "test_labels", test)
    for tag, each in labels.items():
        archives |= put(tmp_path, "train_images", images[tag], tag) | put(tmp_path, "train_labels", each, tag)
    config = PrepareConfig(unseen_classes="ignore")

    def prepared(*tags: str) -> tuple[Path, dict[str, str]]:
        chosen = {key: each for key, each in archives.items() if key.startswith("test") or key.split("@")[1] in tags}
        directory = prepare(config, SparkConfig(), chosen, work)
        return directory, {info.tag: info.segment_id for info in segments.read_segments(directory)}

    _, before = prepared("", "same")
    directory, after = prepared("", "same", "more")
    assert after["same"] == before["same"]  # 0 and 1 are still classes 0 and 1
    assert after[""] != before[""]  # 9 was class 2 and is class 3
    manifest = dataset.read_manifest(directory)
    assert manifest.labels == (0, 1, 5, 9)
    assert manifest.splits["test"].rows == 8  # label 200 is left out
    assert require_content(directory, manifest, "test", images[""], test).tolist() == [0, 1, 2, 4, 5, 6, 7, 9]
    for split in ("train", "validation"):
        stored, numbers, indices = dataset.read_split(directory, manifest, split)
        for tag, name in after.items():
            own = indices >> 32 == segments.first_index(name) >> 32
            rows = indices[own] & 0xFFFFFFFF
            assert (stored[own][..., 0] == (images[tag][rows] / 255).astype(np.float32)).all()
            assert np.array(manifest.labels)[numbers[own]].tolist() == labels[tag][rows].tolist()
            assert split == "train" or own.sum() == 5
