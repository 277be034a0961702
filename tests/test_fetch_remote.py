"""Archives in an object store: copied whole, resumed, checked, and the same dataset as from disk."""

import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from jobs import object_store
from jobs.errors import IdxtrainError, InputError
from jobs.fetch import remote
from jobs.fetch.config import FetchConfig
from jobs.fetch.partial import PartialFile
from jobs.fetch.remote import copied, in_place
from jobs.run_dir import RunDir
from jobs.stage import dataset_of
from tests.conftest import Idxtrain
from tests.support.prepared import Made, parquet_bytes

URL = "s3://bucket/digits"
IMAGES, LABELS = "train-images-idx3-ubyte.gz", "monday/train-labels-idx1-ubyte"


class Store(MemoryFileSystem):
    """An object store in memory, whose connection may end after some bytes. Records what is read."""

    cachable = False  # otherwise fsspec hands one test the store of another

    store: dict[str, Any]
    pseudo_dirs: list[str]

    def __init__(self) -> None:
        super().__init__(skip_instance_cache=True)
        self.store, self.pseudo_dirs = {}, [""]
        self.left: int | None = None
        self.reads: list[tuple[str, int]] = []
        self.root = self._strip_protocol(URL)

    def put_object(self, name: str, content: bytes) -> None:
        """Put an object into the folder."""
        self.pipe_file(f"{self.root}/{name}", content)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """Return some bytes of an object, or fail like a client whose connection ends."""
        assert start is not None
        assert end is not None
        if self.left is not None:
            self.left -= end - start
            if self.left < 0:
                raise ConnectionError("reset by peer: key SECRET-VALUE")
        self.reads.append((path[len(self.root) + 1 :], start))
        content: bytes = super().cat_file(path, start, end)
        return content


@pytest.fixture
def store() -> Iterator[Store]:
    """Yield a store with two archives, from which blocks of 10 bytes are read."""
    made = Store()
    made.put_object(IMAGES, bytes(range(100)))
    made.put_object(LABELS, b"labels")
    made.put_object("notes.txt", b"not an archive")
    made.put_object("monday/deep/train-images-idx3-ubyte", b"too deep")
    with (
        patch.object(remote, "file_system", lambda url, option: made),
        patch.object(object_store, "BLOCK", 10),
        patch.object(object_store, "PAUSE_SECONDS", 0.0),
    ):
        yield made


def fetched(work: Path) -> dict[str, bytes]:
    """Copy the folder; return the copies by name."""
    config = copied(FetchConfig(dataset="digits", data=URL), work / "archives", work / "locks")
    assert in_place(FetchConfig(dataset="digits", data=URL), work / "archives") == config
    folder = Path(config.data)
    files = {path for path in folder.rglob("*") if path.is_file() and path.name != remote._RECORD}
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_archives_are_copied_whole_and_only_changed_ones_again(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^--data s3://bucket/digits: found no copy of it in .* `idxtrain fetch`"):
        in_place(FetchConfig(dataset="digits", data=URL), tmp_path / "archives")
    assert fetched(tmp_path) == {IMAGES: bytes(range(100)), LABELS: b"labels"}
    store.reads.clear()
    assert fetched(tmp_path).keys() == {IMAGES, LABELS}
    assert store.reads == []
    store.put_object(LABELS, b"others")
    assert fetched(tmp_path)[LABELS] == b"others"
    assert {name for name, _ in store.reads} == {LABELS}
    store.rm_file(f"{store.root}/{LABELS}")
    assert fetched(tmp_path).keys() == {IMAGES}


def test_a_copy_that_was_cut_off_is_resumed_and_its_error_has_no_credentials(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SECRET-VALUE")
    store.left = 45
    with pytest.raises(
        IdxtrainError, match=r"after 30 of 100 bytes .*\$AWS_SECRET_ACCESS_KEY.*which resumes"
    ) as caught:
        fetched(tmp_path)
    assert "SECRET-VALUE" not in str(caught.value)
    assert caught.value.exit_code == 75
    store.left = None
    store.reads.clear()
    assert fetched(tmp_path)[IMAGES] == bytes(range(100))
    assert [start for name, start in store.reads if name == IMAGES] == list(range(30, 100, 10))
    assert not list(tmp_path.rglob("*.part"))


def test_the_rest_of_a_replaced_file_is_never_joined_to_the_old_one(store: Store, tmp_path: Path) -> None:
    store.left = 45
    with pytest.raises(IdxtrainError):
        fetched(tmp_path)
    store.left = None
    store.put_object(IMAGES, bytes(100))
    assert fetched(tmp_path)[IMAGES] == bytes(100)
    real = store.cat_file

    def replace_meanwhile(path: str, **bounds: int) -> bytes:
        content: bytes = real(path, **bounds)
        if bounds["start"] == 50:
            store.put_object(IMAGES, bytes(range(100)))
        return content

    store.put_object(IMAGES, b"1" * 100)
    with (
        patch.object(store, "cat_file", replace_meanwhile),
        pytest.raises(IdxtrainError, match=r"changed while it was copied; fix: run again"),
    ):
        fetched(tmp_path)
    assert fetched(tmp_path)[IMAGES] == bytes(range(100))


def test_a_copy_is_checked_against_the_checksums_beside_it(store: Store, tmp_path: Path) -> None:
    store.put_object("SHA256SUMS", f"{hashlib.sha256(bytes(range(100))).hexdigest()}  {IMAGES}\n".encode())
    assert fetched(tmp_path).keys() == {IMAGES, LABELS, "SHA256SUMS"}
    store.put_object(IMAGES, bytes(100))
    for _ in range(2):
        with pytest.raises(InputError, match=rf"{IMAGES}: found SHA-256 .*, expected .* as in SHA256SUMS; fix: upload"):
            fetched(tmp_path)


@pytest.mark.parametrize("call", ["write", "ftruncate", "fsync"])
def test_a_full_disk_is_named_and_not_taken_for_a_store_without_access(store: Store, tmp_path: Path, call: str) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # names no file, as the call has a descriptor
    with patch(f"os.{call}", side_effect=full), pytest.raises(OSError, match="No space left on device") as caught:
        fetched(tmp_path)
    assert Path(caught.value.filename).name.startswith(f".{Path(LABELS).name}.")  # the first of the files
    assert fetched(tmp_path).keys() == {IMAGES, LABELS}


@pytest.mark.parametrize("call", ["cat_file", "info"])
def test_credentials_that_expire_during_the_copy_are_one_line(store: Store, tmp_path: Path, call: str) -> None:
    with (
        patch.object(store, call, side_effect=PermissionError("the token has expired")),
        pytest.raises(InputError, match=rf"^--data {URL}: no access \(the token has expired\); fix: correct"),
    ):
        fetched(tmp_path)


def test_a_copy_that_another_process_replaced_is_not_taken_for_a_store_without_access(
    store: Store, tmp_path: Path
) -> None:
    with (
        patch.object(PartialFile, "_is_in_place", return_value=False),
        pytest.raises(IdxtrainError, match=r"was replaced while it was written; fix: run again") as caught,
    ):
        fetched(tmp_path)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    "name", ["../train-images-idx3-ubyte", "a//train-images-idx3-ubyte", "train\nimages-idx3-ubyte"]
)
def test_a_name_that_could_leave_the_folder_is_refused(store: Store, tmp_path: Path, name: str) -> None:
    listing = {f"{store.root}/{name}": {"type": "file", "size": 1}}
    with (
        patch.object(store, "find", lambda *_, **__: listing),
        pytest.raises(InputError, match=r"found the name .*; fix: rename"),
    ):
        fetched(tmp_path)
    assert not list(tmp_path.rglob("*images*"))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://key:secret@bucket/digits", "found a user name or password in the URL, expected none"),
        ("s3://bucket/digits?key=secret", "expected s3://bucket/folder"),
    ],
)
def test_a_url_with_credentials_is_refused(idxtrain: Idxtrain, url: str, said: str) -> None:
    done = idxtrain("fetch", "--data", url)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert said in done.stderr
    assert "secret" not in done.stderr


@pytest.mark.long
def test_a_dataset_from_s3_is_that_from_disk_and_no_file_has_the_credentials(
    small: Made, tmp_path: Path, idxtrain: Idxtrain
) -> None:
    """moto's server speaks S3's protocol; s3fs, which the extra `s3` installs, is the client of a real bucket, too."""
    if os.environ.get("CI") != "true":
        pytest.importorskip("s3fs")
        pytest.importorskip("moto.server")
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        keys = {"AWS_ACCESS_KEY_ID": "AKIAPRIVATE", "AWS_SECRET_ACCESS_KEY": "very-private"}
        url = f"http://127.0.0.1:{server.get_host_and_port()[1]}"
        environment = os.environ | keys | {"AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": url}
        with patch.dict(os.environ, environment):
            client = boto3.client("s3")
        client.create_bucket(Bucket="bucket")
        for archive in small.archives.values():
            client.upload_file(str(archive.path), "bucket", f"digits/{archive.path.name}")
        options = ("--data", "s3a://bucket/digits", "--work", tmp_path / "work", "--run-id", "r")
        settings = ("--set", "prepare.rows_per_shard=64", "--set", "prepare.validation_from=first")
        done = idxtrain("prepare", *options, *settings, env=environment)
        assert done.returncode == 0, done.stderr
        nowhere = idxtrain("fetch", "--data", "s3://bucket/other", "--work", tmp_path / "work", env=environment)
        assert (nowhere.returncode, nowhere.stderr.count("\n")) == (2, 1), nowhere.stderr
    finally:
        server.stop()
    directory = dataset_of(RunDir(tmp_path / "work/runs/r"))
    assert directory.name == small.directory.name
    assert parquet_bytes(directory) == parquet_bytes(small.directory)
    written = b"".join(path.read_bytes() for path in (tmp_path / "work").rglob("*") if path.is_file())
    for value in ("AKIAPRIVATE", "very-private"):
        assert value not in done.stdout + done.stderr + nowhere.stderr
        assert value.encode() not in written
