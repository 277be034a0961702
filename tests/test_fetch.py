"""The fetch stage: its config, archive names, the user's folder, two processes at once."""

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from jobs.archive import ROLES, Role
from jobs.errors import InputError
from jobs.fetch.catalog import CATALOG
from jobs.fetch.config import FetchConfig
from jobs.fetch.data_set import DataSet
from jobs.fetch.names import find, role_of
from tests.support.fetching import (
    FILES,
    IMAGES,
    NAMES,
    PACKED,
    PLAIN,
    REPOSITORY,
    Server,
    fill,
    lines,
    md5,
    refused,
    run,
    server,
    tiny,
    warnings,
)

__all__ = ["lines", "server", "tiny"]  # fixtures


# --- config


@pytest.mark.parametrize(
    "value",
    [
        {"dataset": ""},
        {"dataset": "../x"},
        {"dataset": ".hidden"},
        {"dataset": "a b"},
        {"dataset": "a\n"},
        {"data": "relative/folder"},
        {"data": "/a\0b"},
        {"mirrors": ["http://example.org/mnist/"]},
        {"mirrors": ["http://127.0.0.1.example.org/"]},
        {"mirrors": ["http://localhost@example.org/"]},
        {"mirrors": ["https://user:secret@example.org/"]},
        {"mirrors": ["ftp://example.org/"]},
        {"mirrors": ["file:///etc/"]},
        {"mirrors": ["https:///mnist/"]},
        {"mirrors": ["https://example.org:port/"]},
        {"mirrors": ["https://example.org/a b/"]},
        {"mirrors": ["https://example.org/?key=1"]},
        {"mirrors": ["https://[::1/"]},
        {"timeout_seconds": 0},
        {"timeout_seconds": float("inf")},
        {"mirror": "https://example.org/"},
    ],
)
def test_the_config_refuses_bad_values(value: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FetchConfig.model_validate(value)


def test_the_config_survives_json() -> None:
    mirrors = ("https://example.org/mnist/", "http://127.0.0.1:8000/", "http://localhost/x", "http://[::1]:1/")
    config = FetchConfig(dataset="EMNIST-letters_1.0", data="/data", mirrors=mirrors, offline=True)
    assert FetchConfig.model_validate(json.loads(config.model_dump_json())) == config


# --- names


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("train-images-idx3-ubyte", "train_images"),
        ("train-images-idx3-ubyte.gz", "train_images"),
        ("train-images.idx3-ubyte", "train_images"),
        ("TRAIN-IMAGES.IDX3-UBYTE.GZ", "train_images"),
        ("train-images-idx4-ubyte", "train_images"),
        ("train-images-idx2-float", "train_images"),
        ("train-labels-idx1-ubyte", "train_labels"),
        ("train-labels.idx1-int.gz", "train_labels"),
        ("t10k-images-idx3-ubyte.gz", "test_images"),
        ("test-images.idx3-short", "test_images"),
        ("t10k-labels.idx1-ubyte", "test_labels"),
        ("Test-Labels-idx1-ubyte.gz", "test_labels"),
        ("train-images-idx5-ubyte", None),
        ("train-images-idx3-ubyte.zip", None),
        ("train-images-idx3-ubyte.gz.part", None),
        ("emnist-train-images-idx3-ubyte", None),
        ("train-images-idx3-ubyte\n", None),
        ("validation-images-idx3-ubyte", None),
    ],
)
def test_the_role_of_an_archive_is_read_from_its_name(name: str, role: Role | None) -> None:
    assert role_of(name) == role


def test_the_plain_file_is_preferred_to_its_gz(tmp_path: Path) -> None:
    fill(tmp_path, {"train-images-idx3-ubyte": b"", "train-images-idx3-ubyte.gz": b"", "test-labels.idx1-int.gz": b""})
    (tmp_path / "t10k-images-idx3-ubyte").mkdir()  # not a file, but some unpackers make it
    assert find(tmp_path) == {
        "train_images": tmp_path / "train-images-idx3-ubyte",
        "test_labels": tmp_path / "test-labels.idx1-int.gz",
    }


@pytest.mark.parametrize("other", ["test-images-idx3-ubyte", "t10k-images.idx3-ubyte", "t10k-images-idx4-ubyte.gz"])
def test_two_files_for_one_role_are_refused(tmp_path: Path, other: str) -> None:
    fill(tmp_path, {"t10k-images-idx3-ubyte": b"", other: b""})
    with pytest.raises(InputError) as caught:
        find(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert other in str(caught.value)
    assert "t10k-images-idx3-ubyte" in str(caught.value)


# --- the user's folder


def test_archives_in_a_folder_are_used_in_place(tmp_path: Path) -> None:
    names = ("train-images.idx3-ubyte", "train-labels-idx1-ubyte.gz", "test-images-idx3-ubyte", "test-labels.idx1-int")
    contents = dict(
        zip(
            names,
            (PLAIN["train_images"], *list(PACKED.values())[1:2], PLAIN["test_images"], PLAIN["test_labels"]),
            strict=True,
        )
    )
    folder = fill(tmp_path / "data", contents)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    archives = run(tmp_path / "work", "digits", data=str(folder))
    assert list(archives) == list(ROLES)
    for role, name in zip(ROLES, names, strict=True):
        archive = archives[role]
        assert (archive.role, archive.path, archive.bytes) == (role, folder / name, len(contents[name]))
        assert archive.sha256 == hashlib.sha256(contents[name]).hexdigest()
        assert archive.known is None
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert not (tmp_path / "work").exists()  # nothing to fetch, nothing to write


def test_an_incomplete_folder_is_refused(tmp_path: Path) -> None:
    folder = fill(tmp_path / "data", {"train-labels-idx1-ubyte": PLAIN["train_labels"], "README.txt": b"our digits"})
    message = refused(tmp_path, "digits", data=str(folder))
    for text in (str(folder), "train_images, test_images, test_labels", "'train-labels-idx1-ubyte' (400 of uint8)"):
        assert text in message
    assert message.endswith("--test-labels F, or in data.toml there")


@pytest.mark.parametrize("dataset", ["digits", "mnist"])
def test_a_folder_without_any_archive_is_refused(tmp_path: Path, dataset: str) -> None:
    folder = fill(tmp_path / "data", {"emnist-letters-train-images-idx3-ubyte": b"", "two\nlines": b""})
    assert "'emnist-letters-train-images-idx3-ubyte'" in refused(tmp_path, dataset, data=str(folder))
    (tmp_path / "empty").mkdir()
    assert "the folder is empty" in refused(tmp_path, dataset, data=str(tmp_path / "empty"))


def test_an_archives_name_that_is_not_a_file_is_refused_with_its_kind(tmp_path: Path) -> None:
    def kind_in_error(name: str) -> str:
        message = refused(tmp_path, "digits", data=str(folder))
        (folder / name).rename(tmp_path / name)  # out of the way
        assert message.startswith(f"{folder / name}: found ")
        assert message.endswith(", expected a regular file; fix: put the archive itself there")
        return message.removeprefix(f"{folder / name}: found ").partition(",")[0]

    folder = fill(tmp_path / "data", {"README": b""})
    os.mkfifo(folder / "train-images-idx3-ubyte")
    assert kind_in_error("train-images-idx3-ubyte") == "a named pipe"
    (folder / "train-labels-idx1-ubyte.gz").mkdir()
    assert kind_in_error("train-labels-idx1-ubyte.gz") == "a folder"
    (folder / "t10k-images-idx3-ubyte").symlink_to("gone")
    assert kind_in_error("t10k-images-idx3-ubyte") == "a link to 'gone' (No such file or directory)"
    (folder / "t10k-labels-idx1-ubyte").symlink_to("t10k-labels-idx1-ubyte")
    assert kind_in_error("t10k-labels-idx1-ubyte").endswith("(Too many levels of symbolic links)")


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert f"{tmp_path / 'nowhere'}: found no such folder" in refused(tmp_path, data=str(tmp_path / "nowhere"))
    message = refused(tmp_path, data=str(tmp_path / "file"))
    assert "found a file, expected a folder" in message
    assert "--data" in message


def test_an_unreadable_archive_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: DataSet) -> None:
    folder = fill(tmp_path / "data", FILES)
    real_open = Path.open

    def deny(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == IMAGES:
            raise PermissionError(13, "Permission denied", str(path))
        return real_open(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", deny)  # a mode would not stop root
    message = refused(tmp_path, "tiny", data=str(folder))
    assert f"{folder / IMAGES}: cannot be read (Permission denied)" in message
    assert "--data" in message
    message = refused(tmp_path, "digits", data=str(folder))
    assert message.startswith(f"{folder / IMAGES}: byte 0: found no readable file (Permission denied)")


def test_archives_of_the_catalog_are_recognized_by_checksum(
    tmp_path: Path, tiny: DataSet, lines: pytest.LogCaptureFixture
) -> None:
    contents = dict(FILES)
    contents["train-labels-idx1-ubyte"] = PLAIN["train_labels"]
    contents[IMAGES] = gzip.compress(PLAIN["train_images"], compresslevel=1, mtime=7)  # compressed again
    assert contents[IMAGES] != FILES[IMAGES]
    folder = fill(tmp_path / "data", contents)
    archives = run(tmp_path, data=str(folder))
    assert {archive.known for archive in archives.values()} == {"tiny"}
    assert archives["train_labels"].path.name == "train-labels-idx1-ubyte"
    assert lines.messages[0].endswith(": 400 x 28 x 28 of uint8; tiny's train-images-idx3-ubyte")


def test_archives_of_the_catalog_under_another_name_are_logged(
    tmp_path: Path, tiny: DataSet, lines: pytest.LogCaptureFixture
) -> None:
    folder = fill(tmp_path / "data", FILES)
    for kind in ("images-idx3", "labels-idx1"):  # the test set is the training set
        shutil.copy(folder / f"train-{kind}-ubyte.gz", folder / f"t10k-{kind}-ubyte.gz")
    archives = run(tmp_path, "digits", data=str(folder))
    assert {archive.known for archive in archives.values()} == {"tiny"}
    assert len(lines.messages) == 4
    assert lines.messages[2] == (
        "fetch: test_images: t10k-images-idx3-ubyte.gz: 400 x 28 x 28 of uint8; tiny's train-images-idx3-ubyte"
    )


@pytest.mark.parametrize("form", ["plain", "gz"])
def test_a_wrong_checksum_in_a_folder_is_refused(tmp_path: Path, server: Server, tiny: DataSet, form: str) -> None:
    name, good = (IMAGES, FILES[IMAGES]) if form == "gz" else (IMAGES[:-3], PLAIN["train_images"])
    bad = good[:-1] + bytes([good[-1] ^ 1])
    folder = fill(tmp_path / "data", {name: bad})
    message = refused(tmp_path, data=str(folder), mirrors=(server.url,))
    for text in (str(folder / name), md5(bad), md5(good), "tiny's train-images-idx3-ubyte", "--dataset"):
        assert text in message
    assert server.requests == []  # refused before anything is fetched
    assert (folder / name).read_bytes() == bad


def test_the_error_for_a_wrong_checksum_names_the_known_file(
    tmp_path: Path, tiny: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {role: archive.model_copy(update={"md5": None}) for role, archive in tiny.archives.items()}
    for role in ROLES:
        other[role] = other[role].model_copy(update={"gz_md5": "0" * 32})
    monkeypatch.setitem(CATALOG, "other", DataSet(name="other", archives=other, mirrors=()))
    plain = fill(tmp_path / "plain", {NAMES[role]: PLAIN[role] for role in ROLES})
    packed = fill(tmp_path / "packed", FILES)
    assert "it is tiny's train-images-idx3-ubyte" in refused(tmp_path, "other", data=str(packed))
    # Only the .gz has a checksum in "other", but this plain file is known to be something else.
    assert "it is tiny's train-images-idx3-ubyte" in refused(tmp_path, "other", data=str(plain))


def test_a_plain_file_without_a_known_checksum_is_a_warning(
    tmp_path: Path, tiny: DataSet, server: Server, lines: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    archives = {role: archive.model_copy(update={"md5": None}) for role, archive in tiny.archives.items()}
    monkeypatch.setitem(CATALOG, "tiny", tiny.model_copy(update={"archives": archives}))
    folder = fill(tmp_path / "data", {NAMES[role]: PLAIN[role] for role in ROLES})
    unchecked = run(tmp_path, data=str(folder))
    assert {archive.known for archive in unchecked.values()} == {None}
    assert len(warnings(lines)) == 4
    assert "not checked" in warnings(lines)[0]
    # A folder of unchecked files is not completed: they may be another data set's. A wrong file is refused as before.
    (folder / "t10k-labels-idx1-ubyte").unlink()
    assert "no archive for test_labels" in refused(tmp_path, data=str(folder), mirrors=(server.url,))
    fill(folder, {"t10k-labels-idx1-ubyte.gz": FILES[IMAGES][:-1]})
    assert "expected" in refused(tmp_path, data=str(folder), mirrors=(server.url,))


def test_missing_archives_of_the_catalog_are_downloaded(tmp_path: Path, server: Server, tiny: DataSet) -> None:
    folder = fill(tmp_path / "data", {IMAGES: FILES[IMAGES]})
    archives = run(tmp_path, data=str(folder), mirrors=(server.url,))
    assert archives["train_images"].path == folder / IMAGES
    assert archives["test_labels"].path == tmp_path / "archives/tiny/t10k-labels-idx1-ubyte.gz"
    assert sorted(path.name for path in folder.iterdir()) == [IMAGES]
    assert len(server.requests) == 3


# --- processes


_PROCESS = """
import json, sys
from pathlib import Path
from jobs.fetch.catalog import CATALOG
from jobs.fetch.data_set import DataSet, KnownArchive
from jobs.fetch.config import FetchConfig
from jobs.fetch.data_set import DataSet
from jobs.fetch.stage import fetch
work, url, archives = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
known = {role: KnownArchive(**archive) for role, archive in archives.items()}
CATALOG["tiny"] = DataSet(name="tiny", archives=known, mirrors=(url,))
print("ready", flush=True)
sys.stdin.readline()
fetched = fetch(FetchConfig(dataset="tiny"), work / "archives", work / ".locks").archives
print(json.dumps({role: archive.sha256 for role, archive in fetched.items()}))
"""


def test_two_processes_fetch_each_archive_once_even_if_flock_does_nothing(
    tmp_path: Path, server: Server, tiny: DataSet, without_flock: Mapping[str, str]
) -> None:
    server.delay = 0.1
    catalog = json.dumps({role: archive.model_dump() for role, archive in tiny.archives.items()})
    argv = [sys.executable, "-c", _PROCESS, str(tmp_path), server.url, catalog]
    processes = [
        subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, env=without_flock
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    results = [json.loads(process.communicate(timeout=20)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert results[0] == results[1] == {role: hashlib.sha256(PACKED[role]).hexdigest() for role in ROLES}
    assert len(server.requests) == 4  # the second process used the first one's files


def test_the_fetch_stage_imports_nothing_heavy() -> None:
    code = "import sys, jobs.fetch.stage; print([m for m in ('numpy', 'zarr', 'rich', 'pyspark') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
