"""What a retraining depends on: the content of the archives, not their names."""

import shutil
from pathlib import Path

import pytest

from pipelines.config import compose
from pipelines.retraining.inputs import archives, content_of
from tests.conftest import MakeArchives

IMAGES, LABELS = "train-images-{}-idx3-ubyte", "train-labels-{}-idx1-ubyte"


def hash_of(folder: Path, *settings: str) -> str:
    return content_of(archives(compose("fast", {"fetch.data": str(folder), "fetch.dataset": "mine"}, settings)))


def add(folder: Path, made: Path, tag: str) -> None:
    shutil.copy(made / "train-images-idx3-ubyte", folder / IMAGES.format(tag))
    shutil.copy(made / "train-labels-idx1-ubyte", folder / LABELS.format(tag))


@pytest.fixture
def folder(make_archives: MakeArchives, tmp_path: Path) -> Path:
    for number, name in enumerate(("data", "more", "yet-more")):
        make_archives(tmp_path / name, (6, 8), 3, train=20, test=6, gz=False, seed=number)
    add(tmp_path / "data", tmp_path / "more", "monday")
    return tmp_path / "data"


def test_a_copy_of_a_pair_under_another_name_changes_nothing_and_is_named(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = hash_of(folder)
    assert caplog.messages == []
    add(folder, folder.parent / "more", "tuesday")
    assert hash_of(folder) == before
    assert caplog.messages == ["retrain: pair tuesday has the same content as pair monday; it counts once"]
    add(folder, folder, "copy")
    assert hash_of(folder) == before
    assert "retrain: pair copy has the same content as the untagged pair; it counts once" in caplog.messages


def test_a_pair_that_options_name_is_the_untagged_one_beside_those_of_the_folder(folder: Path) -> None:
    names = {"train_images": "train-images-idx3-ubyte", "train_labels": "train-labels-idx1-ubyte"}
    named = {f"fetch.{role}": str(folder.parent / "yet-more" / name) for role, name in names.items()}
    settings = {"fetch.data": str(folder), "fetch.dataset": "mine", "fetch.segments": True, **named}
    found = archives(compose("fast", settings, ()))
    assert found["train_images@"] == folder.parent / "yet-more" / names["train_images"]
    assert found["train_images@monday"].parent == folder
    assert found["test_images"].parent == folder


def test_a_renamed_pair_changes_nothing(folder: Path) -> None:
    before = hash_of(folder)
    for name in (IMAGES, LABELS):
        (folder / name.format("monday")).rename(folder / name.format("sunday"))
    assert hash_of(folder) == before


def test_another_pair_and_exchanged_labels_are_new_content(folder: Path) -> None:
    hashes = [hash_of(folder)]
    add(folder, folder.parent / "yet-more", "tuesday")
    hashes.append(hash_of(folder))
    monday, tuesday, aside = (folder / LABELS.format(tag) for tag in ("monday", "tuesday", "aside"))
    monday.rename(aside.with_suffix(".x"))
    tuesday.rename(monday)
    aside.with_suffix(".x").rename(tuesday)
    hashes.append(hash_of(folder))
    shutil.copy(folder.parent / "more/t10k-images-idx3-ubyte", folder / "t10k-images-idx3-ubyte")
    hashes.append(hash_of(folder))
    assert len(set(hashes)) == 4


def test_a_change_of_the_excluded_rows_is_new_content(folder: Path, tmp_path: Path) -> None:
    hashes = [hash_of(folder)]
    for row in (3, 4):
        (tmp_path / "exclude.csv").write_text(f"role,row,tag\ntrain,{row},monday\n")
        hashes.append(hash_of(folder, f"prepare.exclude={tmp_path / 'exclude.csv'}"))
    assert len(set(hashes)) == 3
