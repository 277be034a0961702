"""Shards in an object store are read although this machine has little room for their copies."""

import errno
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from jobs import shard_copies
from jobs.batches import read_labels
from jobs.dataset import SPLITS, Manifest, read_split
from jobs.demo.gallery import Gallery
from jobs.prepare import test_pair
from jobs.shard_copies import local_path, private_folder
from tests.support.prepared import Made
from tests.support.stored import on_disk, remote, server, store

__all__ = ["on_disk", "remote", "server", "store"]  # fixtures


def labels_of_the_gallery(directory: Path, manifest: Manifest) -> Any:
    splits = dict(zip(SPLITS, reversed([manifest.splits[split] for split in SPLITS]), strict=True))
    return Gallery(directory, manifest.model_copy(update={"splits": splits}), None).test.labels


@pytest.mark.parametrize(
    "read",
    [
        lambda directory, manifest: read_labels(directory, manifest, "train")[0],
        lambda directory, manifest: read_split(directory, manifest, "train")[1],
        lambda directory, manifest: test_pair._digests(directory, manifest.splits["train"].shards)[0] % 2,
        labels_of_the_gallery,
    ],
    ids=["labels", "split", "digests", "gallery"],
)
def test_a_shard_is_read_before_its_copy_makes_room_for_the_next(
    on_disk: Made, remote: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path, Manifest], Any]
) -> None:
    usage = namedtuple("usage", "total used free")
    folder = private_folder()
    size = 2 * max(shard.bytes for shard in on_disk.manifest.splits["train"].shards)  # of five shards

    def small(_: Path) -> Any:
        used = sum(path.stat().st_size for path in folder.glob("*.parquet"))
        return usage(size, used, size - used)

    monkeypatch.setattr(shutil, "disk_usage", small)
    monkeypatch.setattr(shard_copies, "_SPARE", 0.0)
    monkeypatch.setattr(shard_copies, "CONNECTIONS", 1)  # several would each find the same room
    monkeypatch.setattr(shard_copies, "_IN_USE_SECONDS", 0.0)  # as if each file took a minute to read
    assert read(remote, on_disk.manifest).tolist() == [row % 2 for row in range(80)]
    assert len(list(folder.glob("*.parquet"))) == 2


def test_a_disk_that_gets_full_while_a_shard_is_copied_is_named(on_disk: Made, remote: Path) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # names no file, as the call has a descriptor
    shard = on_disk.manifest.splits["train"].shards[0]
    with patch.object(shard_copies, "_make", side_effect=full), pytest.raises(OSError, match="No space left") as caught:
        local_path(remote, shard)
    assert caught.value.filename == str(private_folder() / f"{shard.sha256}.parquet")
