"""Shards on a node's own disk: copied once, checked, shared by its ranks; and a disk that has no room."""

import shutil
import threading
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from jobs.errors import InputError
from jobs.train.data import shard_copies
from jobs.train.data.reader import read_shards
from jobs.train.data.shard_copies import FOLDER, ShardCopies
from tests.support.prepared import Made


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that a job names for the copies."""
    folder = tmp_path / "shards"
    folder.mkdir()
    monkeypatch.setenv(FOLDER, str(folder))
    return folder


def indices(small: Made, directory: Path) -> list[int]:
    """Return the archive rows of all training shards, read as a rank reads them."""
    shards = small.manifest.splits["train"].shards
    rows = dict(read_shards(directory, small.manifest, shards, threads=2))
    return [int(index) for position in sorted(rows) for index in rows[position].indices]


@pytest.fixture
def dataset(small: Made, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small.directory, tmp_path / "dataset"))


def test_later_epochs_read_the_copies_and_the_same_rows(small: Made, dataset: Path, folder: Path) -> None:
    shards = small.manifest.splits["train"].shards
    first = indices(small, dataset)
    copies = folder / dataset.name
    assert [(copies / shard.path).read_bytes() for shard in shards] == [
        (dataset / shard.path).read_bytes() for shard in shards
    ]
    assert sorted(path.name for path in (copies / "train").iterdir()) == [Path(shard.path).name for shard in shards]
    shutil.rmtree(dataset / "train")
    assert indices(small, dataset) == first


def test_a_shard_whose_bytes_are_not_the_manifests_is_refused(small: Made, dataset: Path, folder: Path) -> None:
    path = dataset / small.manifest.splits["train"].shards[0].path
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(InputError, match=r"part-00000\.parquet: found bytes other than those of the manifest"):
        ShardCopies(dataset, small.manifest.splits["train"].shards).made(str(path))
    assert list((folder / dataset.name / "train").iterdir()) == []


def test_ranks_of_a_node_copy_a_shard_once(
    small: Made, dataset: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = small.manifest.splits["train"].shards[0]
    make, made = shard_copies._make, []

    def slowly(source: Path, copy: Path, each: object) -> None:
        made.append(source)
        threading.Event().wait(0.2)
        make(source, copy, shard)

    monkeypatch.setattr(shard_copies, "_make", slowly)
    path, paths = str((dataset / shard.path).resolve()), []
    ranks = [threading.Thread(target=lambda: paths.append(ShardCopies(dataset, [shard]).made(path))) for _ in range(3)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert len(made) == 1
    assert paths == [str(folder / dataset.name / shard.path)] * 3


def test_the_claim_of_a_killed_rank_is_taken_over(small: Made, dataset: Path, folder: Path) -> None:
    shard = small.manifest.splits["train"].shards[0]
    copy = folder / dataset.name / shard.path
    copy.parent.mkdir(parents=True)
    claim = copy.with_name(f".{copy.name}.claim")
    assert shard_copies._is_claimed_by_us(claim)
    claim.write_text(claim.read_text().replace('"began": ', '"began": 1'))  # another process had this PID
    assert ShardCopies(dataset, [shard]).made(str((dataset / shard.path).resolve())) == str(copy)


def test_a_disk_without_room_leaves_shards_at_their_source_with_one_line(
    small: Made, dataset: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100_000_000, 96_000_000, 4_000_000))
    assert len(np.unique(indices(small, dataset))) == small.manifest.splits["train"].rows
    assert [record.message for record in caplog.records] == [
        f"train: {folder / dataset.name}: no room for more shards; reading them at their source"
    ]
    assert not [path for path in folder.rglob("*") if path.is_file()]
