"""The fetch stage: real files in folders, a real web server with faults, the real offline package."""

import dataclasses
import gzip
import hashlib
import http.server
import json
import logging
import random
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from jobs.archive import ROLES, Role
from jobs.errors import InputError
from jobs.fetch import mirror, offline
from jobs.fetch.catalog import CATALOG, KnownArchive, KnownDataSet
from jobs.fetch.config import FetchConfig
from jobs.fetch.names import find, role_of
from jobs.fetch.source import SourceError
from jobs.fetch.stage import Archives, fetch
from jobs.files import digest_file, sha256_file

REPOSITORY = Path(__file__).parent.parent
NAMES: dict[Role, str] = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
SHAPES: dict[Role, tuple[int, ...]] = {
    "train_images": (400, 28, 28),
    "train_labels": (400,),
    "test_images": (20, 28, 28),
    "test_labels": (20,),
}


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def idx_bytes(shape: tuple[int, ...], seed: int) -> bytes:
    """Return an IDX archive of random values, which gzip cannot make smaller."""
    count = 1
    for size in shape:
        count *= size
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape) + random.Random(seed).randbytes(count)  # noqa: S311


PLAIN: dict[Role, bytes] = {role: idx_bytes(SHAPES[role], seed) for seed, role in enumerate(ROLES)}
PACKED: dict[Role, bytes] = {role: gzip.compress(data, mtime=0) for role, data in PLAIN.items()}
FILES: dict[str, bytes] = {f"{NAMES[role]}.gz": data for role, data in PACKED.items()}
IMAGES = "train-images-idx3-ubyte.gz"


def known_archive(role: Role) -> KnownArchive:
    return KnownArchive(NAMES[role], SHAPES[role], md5(PACKED[role]), len(PACKED[role]), md5(PLAIN[role]))


# --- a web server with faults


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` under /, with ranges. `faults` name what to do with the next requests for a file."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = dict(FILES)
        self.faults: dict[str, list[str]] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.delay = 0.0
        self.stop = threading.Event()

    @property
    def url(self) -> str:
        """The base URL, as a mirror's."""
        return f"http://127.0.0.1:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet about clients that hang up."""

    def fail(self, fault: str, times: int = 1000, names: Sequence[str] = tuple(FILES)) -> None:
        """Let the next requests for these files meet the fault."""
        for name in names:
            self.faults[name] = [fault] * times


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        asked = self.headers.get("Range")
        self.server.requests.append((name, asked))
        time.sleep(self.server.delay)
        faults = self.server.faults.get(name)
        fault = faults.pop(0) if faults else "none"
        with suppress(OSError):  # the client may hang up
            getattr(self, f"serve_{fault}")(self.server.files.get(name), asked)

    def serve_none(self, data: bytes | None, asked: str | None) -> None:
        if data is None:
            return self.send_error(404)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if start >= len(data):
            return self.send_error(416)
        headers = {"Content-Length": len(data) - start}
        if asked:
            headers |= {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}  # type: ignore[dict-item]
        self.head(206 if asked else 200, headers)
        self.wfile.write(data[start:])

    def head(self, status: int, headers: dict[str, Any]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, str(value))
        self.end_headers()

    def serve_missing(self, data: bytes, asked: str | None) -> None:
        self.send_error(404)

    def serve_cut(self, data: bytes, asked: str | None) -> None:
        """Promise everything that was asked for, send half of it."""
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if asked:
            rest = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
            self.head(206, {"Content-Length": len(data) - start} | rest)
        else:
            self.head(200, {"Content-Length": len(data)})
        self.wfile.write(data[start : start + (len(data) - start) // 2])

    def serve_no_ranges(self, data: bytes, asked: str | None) -> None:
        self.serve_none(data, None)

    def serve_wrong_range(self, data: bytes, asked: str | None) -> None:
        self.head(206, {"Content-Length": 10, "Content-Range": f"bytes 0-9/{len(data)}"})
        self.wfile.write(data[:10])

    def serve_wrong(self, data: bytes, asked: str | None) -> None:
        self.serve_none(data[:-1] + bytes([data[-1] ^ 1]), asked)

    def serve_short(self, data: bytes, asked: str | None) -> None:
        self.serve_none(b"<html>please log in</html>", None)

    def serve_silence(self, data: bytes, asked: str | None) -> None:
        self.server.stop.wait(10)

    def serve_stall(self, data: bytes, asked: str | None) -> None:
        self.head(200, {"Content-Length": len(data)})
        self.wfile.write(data[: len(data) // 2])
        self.wfile.flush()
        self.server.stop.wait(10)

    def serve_drip(self, data: bytes, asked: str | None) -> None:
        self.head(200, {"Content-Length": len(data)})
        for byte in data:
            self.wfile.write(bytes([byte]))
            self.server.stop.wait(0.05)

    def serve_endless(self, data: bytes, asked: str | None) -> None:
        self.head(200, {})
        while not self.server.stop.is_set():
            self.wfile.write(bytes(1 << 16))

    def serve_to_http(self, data: bytes, asked: str | None) -> None:
        self.head(302, {"Location": "http://mirror.example/file"})

    def serve_to_file(self, data: bytes, asked: str | None) -> None:
        self.head(302, {"Location": "file:///etc/hostname"})

    def serve_loop(self, data: bytes, asked: str | None) -> None:
        self.head(302, {"Location": self.path})

    def serve_signed(self, data: bytes, asked: str | None) -> None:
        self.head(302, {"Location": self.path + "?signature=1"})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield server
        server.stop.set()
        server.shutdown()


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> KnownDataSet:
    """Put a data set into the catalog, without mirrors of its own."""
    data_set = KnownDataSet("tiny", {role: known_archive(role) for role in ROLES}, ())
    monkeypatch.setitem(CATALOG, "tiny", data_set)
    return data_set


@pytest.fixture(autouse=True)
def lines(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """Catch the log lines, whatever other tests made of the logger."""
    monkeypatch.setattr(logging.getLogger("idxtrain"), "propagate", True)
    caplog.set_level(logging.INFO, logger="idxtrain")
    return caplog


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    messages = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert all("\n" not in message for message in messages)
    return messages


def run(work: Path, dataset: str = "tiny", **options: Any) -> Archives:
    return fetch(FetchConfig(dataset=dataset, **options), work / "archives", work / ".locks")


def refused(work: Path, dataset: str = "tiny", **options: Any) -> str:
    """Return the one line with which fetch ends."""
    with pytest.raises(InputError) as caught:
        run(work, dataset, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 2
    return message


def fill(folder: Path, contents: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return folder


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
def test_config_refuses(value: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FetchConfig.model_validate(value)


def test_config_accepts_and_survives_json() -> None:
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
def test_names(name: str, role: Role | None) -> None:
    assert role_of(name) == role


def test_plain_comes_before_its_gz(tmp_path: Path) -> None:
    fill(tmp_path, {"train-images-idx3-ubyte": b"", "train-images-idx3-ubyte.gz": b"", "test-labels.idx1-int.gz": b""})
    (tmp_path / "t10k-images-idx3-ubyte").mkdir()  # what some unpackers make; not a file
    assert find(tmp_path) == {
        "train_images": tmp_path / "train-images-idx3-ubyte",
        "test_labels": tmp_path / "test-labels.idx1-int.gz",
    }


@pytest.mark.parametrize("other", ["test-images-idx3-ubyte", "t10k-images.idx3-ubyte", "t10k-images-idx4-ubyte.gz"])
def test_two_candidates_for_one_role(tmp_path: Path, other: str) -> None:
    fill(tmp_path, {"t10k-images-idx3-ubyte": b"", other: b""})
    with pytest.raises(InputError) as caught:
        find(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert other in str(caught.value)
    assert "t10k-images-idx3-ubyte" in str(caught.value)


# --- a folder of the user's


def test_own_data_is_used_in_place(tmp_path: Path) -> None:
    names = ("train-images.idx3-ubyte", "train-labels-idx1-ubyte.gz", "test-images-idx3-ubyte", "test-labels.idx1-int")
    folder = fill(tmp_path / "data", {name: name.encode() for name in names})
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    archives = run(tmp_path / "work", "digits", data=str(folder))
    assert list(archives) == list(ROLES)
    for role, name in zip(ROLES, names, strict=True):
        found = archives[role]
        assert (found.role, found.path, found.bytes) == (role, folder / name, len(name))
        assert found.sha256 == hashlib.sha256(name.encode()).hexdigest()
        assert found.known is None
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert not (tmp_path / "work").exists()  # nothing to fetch, nothing to write


def test_own_data_must_be_complete(tmp_path: Path) -> None:
    names = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", *(f"file{i}.txt" for i in range(7))]
    folder = fill(tmp_path / "data", dict.fromkeys(names, b""))
    message = refused(tmp_path, "digits", data=str(folder))
    for text in (str(folder), "test_images, test_labels", "t10k-labels-idx1-ubyte", "'file0.txt'", "4 more", "--data"):
        assert text in message
    assert "train_images" not in message


@pytest.mark.parametrize("dataset", ["digits", "mnist"])
def test_folder_without_any_archive_is_refused(tmp_path: Path, dataset: str) -> None:
    folder = fill(tmp_path / "data", {"emnist-letters-train-images-idx3-ubyte": b"", "two\nlines": b""})
    assert "'emnist-letters-train-images-idx3-ubyte'" in refused(tmp_path, dataset, data=str(folder))
    (tmp_path / "empty").mkdir()
    assert "the folder is empty" in refused(tmp_path, dataset, data=str(tmp_path / "empty"))


def test_no_such_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert f"{tmp_path / 'nowhere'}: there is no such folder" in refused(tmp_path, data=str(tmp_path / "nowhere"))
    message = refused(tmp_path, data=str(tmp_path / "file"))
    assert "is not a folder" in message
    assert "--data" in message


def test_unreadable_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: KnownDataSet) -> None:
    folder = fill(tmp_path / "data", FILES)
    real_open = Path.open

    def deny(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == IMAGES:
            raise PermissionError(13, "Permission denied", str(path))
        return real_open(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", deny)  # a mode would not stop root
    for dataset in ("tiny", "digits"):
        message = refused(tmp_path, dataset, data=str(folder))
        assert f"{folder / IMAGES}: cannot be read (Permission denied)" in message
        assert "--data" in message


def test_known_data_in_a_folder(tmp_path: Path, tiny: KnownDataSet, lines: pytest.LogCaptureFixture) -> None:
    contents = dict(FILES)
    contents["train-labels-idx1-ubyte"] = PLAIN["train_labels"]
    contents[IMAGES] = gzip.compress(PLAIN["train_images"], compresslevel=1, mtime=7)  # packed anew
    assert contents[IMAGES] != FILES[IMAGES]
    folder = fill(tmp_path / "data", contents)
    archives = run(tmp_path, data=str(folder))
    assert {archive.known for archive in archives.values()} == {"tiny"}
    assert archives["train_labels"].path.name == "train-labels-idx1-ubyte"
    assert lines.messages == []


def test_known_data_under_an_own_name_is_told(
    tmp_path: Path, tiny: KnownDataSet, lines: pytest.LogCaptureFixture
) -> None:
    folder = fill(tmp_path / "data", FILES)
    shutil.copy(folder / IMAGES, folder / "t10k-images-idx3-ubyte.gz")  # the test set is the training set
    archives = run(tmp_path, "digits", data=str(folder))
    assert {archive.known for archive in archives.values()} == {"tiny"}
    assert len(lines.messages) == 4
    assert "digits: t10k-images-idx3-ubyte.gz" in lines.messages[2]
    assert "tiny's train-images-idx3-ubyte" in lines.messages[2]


@pytest.mark.parametrize("form", ["plain", "gz"])
def test_wrong_checksum_in_a_folder(tmp_path: Path, server: Server, tiny: KnownDataSet, form: str) -> None:
    name, good = (IMAGES, FILES[IMAGES]) if form == "gz" else (IMAGES[:-3], PLAIN["train_images"])
    bad = good[:-1] + bytes([good[-1] ^ 1])
    folder = fill(tmp_path / "data", {name: bad})
    message = refused(tmp_path, data=str(folder), mirrors=(server.url,))
    for text in (str(folder / name), md5(bad), md5(good), "tiny's train-images-idx3-ubyte", "--dataset"):
        assert text in message
    assert server.requests == []  # refused before anything is fetched
    assert (folder / name).read_bytes() == bad


def test_wrong_checksum_names_what_the_file_is(
    tmp_path: Path, tiny: KnownDataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {role: dataclasses.replace(archive, md5=None) for role, archive in tiny.archives.items()}
    for role in ROLES:
        other[role] = dataclasses.replace(other[role], gz_md5="0" * 32)
    monkeypatch.setitem(CATALOG, "other", KnownDataSet("other", other, ()))
    plain = fill(tmp_path / "plain", {NAMES[role]: PLAIN[role] for role in ROLES})
    packed = fill(tmp_path / "packed", FILES)
    assert "it is tiny's train-images-idx3-ubyte" in refused(tmp_path, "other", data=str(packed))
    # Only the .gz has a checksum in "other", but this plain file is known to be something else.
    assert "it is tiny's train-images-idx3-ubyte" in refused(tmp_path, "other", data=str(plain))


def test_plain_file_without_known_checksum(
    tmp_path: Path, tiny: KnownDataSet, server: Server, lines: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    archives = {role: dataclasses.replace(archive, md5=None) for role, archive in tiny.archives.items()}
    monkeypatch.setitem(CATALOG, "tiny", dataclasses.replace(tiny, archives=archives))
    folder = fill(tmp_path / "data", {NAMES[role]: PLAIN[role] for role in ROLES})
    found = run(tmp_path, data=str(folder))
    assert {archive.known for archive in found.values()} == {None}
    assert len(warnings(lines)) == 4
    assert "not checked" in warnings(lines)[0]
    # What is not checked is not completed either: it may be something else. Nor does it hide a wrong file.
    (folder / "t10k-labels-idx1-ubyte").unlink()
    assert "no archive for test_labels" in refused(tmp_path, data=str(folder), mirrors=(server.url,))
    fill(folder, {"t10k-labels-idx1-ubyte.gz": FILES[IMAGES][:-1]})
    assert "expected" in refused(tmp_path, data=str(folder), mirrors=(server.url,))


def test_missing_files_are_completed(tmp_path: Path, server: Server, tiny: KnownDataSet) -> None:
    folder = fill(tmp_path / "data", {IMAGES: FILES[IMAGES]})
    archives = run(tmp_path, data=str(folder), mirrors=(server.url,))
    assert archives["train_images"].path == folder / IMAGES
    assert archives["test_labels"].path == tmp_path / "archives/tiny/t10k-labels-idx1-ubyte.gz"
    assert sorted(path.name for path in folder.iterdir()) == [IMAGES]
    assert len(server.requests) == 3


# --- mirrors


def test_download(tmp_path: Path, server: Server, tiny: KnownDataSet, lines: pytest.LogCaptureFixture) -> None:
    archives = run(tmp_path, mirrors=(server.url,))
    for role, archive in ((archive.role, archive) for archive in archives.values()):
        assert archive.path == tmp_path / "archives/tiny" / f"{NAMES[role]}.gz"
        assert archive.path.read_bytes() == PACKED[role]
        assert (archive.bytes, archive.sha256) == (len(PACKED[role]), sha256_file(archive.path))
        assert archive.known == "tiny"
    assert warnings(lines) == []
    assert len(lines.messages) == 4
    assert sorted(path.name for path in (tmp_path / "archives/tiny").iterdir()) == sorted(FILES)
    server.requests.clear()
    assert run(tmp_path, mirrors=(server.url,)) == archives
    assert server.requests == []


def test_corrupt_archive_is_replaced(
    tmp_path: Path, server: Server, tiny: KnownDataSet, lines: pytest.LogCaptureFixture
) -> None:
    run(tmp_path, mirrors=(server.url,))
    path = tmp_path / "archives/tiny" / IMAGES
    path.write_bytes(FILES[IMAGES][:-9])
    server.requests.clear()
    archives = run(tmp_path, mirrors=(server.url,))
    assert archives["train_images"].path.read_bytes() == FILES[IMAGES]
    assert [name for name, _ in server.requests] == [IMAGES]
    assert len(warnings(lines)) == 1
    assert md5(FILES[IMAGES][:-9]) in warnings(lines)[0]


def test_order_of_mirrors(
    tmp_path: Path, server: Server, tiny: KnownDataSet, monkeypatch: pytest.MonkeyPatch, lines: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(CATALOG, "tiny", dataclasses.replace(tiny, mirrors=(server.url,)))
    run(tmp_path, mirrors=(f"{server.url}user",))
    labels = "train-labels-idx1-ubyte.gz"
    names = [name for name, _ in server.requests]
    assert names[:4] == [f"user/{name}" for name in FILES]  # the user's first
    assert names[4:] == list(FILES)
    assert names[5] == labels
    assert len(warnings(lines)) == 4  # each failed attempt, one line
    assert f"train-labels-idx1-ubyte from {server.url}user/: HTTP 404" in warnings(lines)[1]


def test_offline_asks_no_mirror(tmp_path: Path, server: Server, tiny: KnownDataSet) -> None:
    message = refused(tmp_path, mirrors=(server.url,), offline=True)
    assert server.requests == []
    assert "fetch.offline" in message


def test_broken_transfer_is_resumed(tmp_path: Path, server: Server, tiny: KnownDataSet) -> None:
    server.fail("cut", times=2, names=[IMAGES])
    archives = run(tmp_path, mirrors=(server.url,))
    assert archives["train_images"].path.read_bytes() == FILES[IMAGES]
    size = len(FILES[IMAGES])
    ranges = [asked for name, asked in server.requests if name == IMAGES]
    assert ranges == [None, f"bytes={size // 2}-", f"bytes={size // 2 + (size - size // 2) // 2}-"]


def test_part_is_kept_for_the_next_run(
    tmp_path: Path, server: Server, tiny: KnownDataSet, lines: pytest.LogCaptureFixture
) -> None:
    server.fail("cut", names=[IMAGES])
    assert "broke off after" in refused(tmp_path, mirrors=(server.url,))
    assert len(warnings(lines)) == 1  # the other three arrived
    part = tmp_path / "archives/tiny" / f"{IMAGES}.part"
    assert part.read_bytes() == FILES[IMAGES][: part.stat().st_size]
    server.faults.clear()
    server.requests.clear()
    length = part.stat().st_size
    run(tmp_path, mirrors=(server.url,))
    assert server.requests == [(IMAGES, f"bytes={length}-")]
    assert not part.exists()


@pytest.mark.parametrize("fault", ["no_ranges", "wrong_range"])
def test_server_that_does_not_resume(tmp_path: Path, server: Server, tiny: KnownDataSet, fault: str) -> None:
    fill(tmp_path / "archives/tiny", {f"{IMAGES}.part": FILES[IMAGES][:1000]})
    server.fail(fault, times=1, names=[IMAGES])
    archives = run(tmp_path, mirrors=(server.url,))
    assert archives["train_images"].path.read_bytes() == FILES[IMAGES]
    assert server.requests[0] == (IMAGES, "bytes=1000-")


@pytest.mark.parametrize("part", [b"x" * 1000, b"x" * len(FILES[IMAGES]), b"x" * (len(FILES[IMAGES]) + 5)])
def test_part_of_something_else(
    tmp_path: Path, server: Server, tiny: KnownDataSet, part: bytes, lines: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path / "archives/tiny", {f"{IMAGES}.part": part})
    archives = run(tmp_path, mirrors=(server.url,))
    assert archives["train_images"].path.read_bytes() == FILES[IMAGES]
    assert warnings(lines) == []


@pytest.mark.parametrize(
    ("fault", "reason", "requests"),
    [
        ("missing", "HTTP 404", 4),
        ("wrong", "found MD5", 4),
        ("short", "offers 26 bytes, expected", 4),
        ("endless", "sends more than the", 4),
        ("to_http", "redirects to 'http://mirror.example/file', which is not https", 4),
        ("to_file", "Redirection to url 'file:///etc/hostname' is not allowed", 4),
        ("loop", "infinite loop. The last", 20),
        ("wrong_range", "answers with another range", 12),
        # A dead connection: the other files are not asked for.
        ("silence", "no answer in time", 1),
        ("stall", "no answer in time", 1),
        ("drip", "sends less than", 1),
    ],
)
def test_faults(
    tmp_path: Path,
    server: Server,
    tiny: KnownDataSet,
    lines: pytest.LogCaptureFixture,
    fault: str,
    reason: str,
    requests: int,
) -> None:
    server.fail(fault)
    begin = time.monotonic()
    message = refused(tmp_path, mirrors=(server.url,), timeout_seconds=0.5)
    assert time.monotonic() - begin < 5
    assert reason in message
    assert server.url in message
    assert "--data" in message
    assert len(server.requests) == requests
    assert len(warnings(lines)) == (1 if requests == 1 else 4)
    assert reason in warnings(lines)[0]
    left = [path.name for path in (tmp_path / "archives/tiny").iterdir()]
    assert [name for name in left if not name.endswith(".part")] == []
    if fault in ("wrong", "short", "endless"):
        assert left == []  # what is known to be wrong is not resumed


def test_redirect_to_an_allowed_url(tmp_path: Path, server: Server, tiny: KnownDataSet) -> None:
    server.fail("signed", times=1)
    server.files |= {f"{name}?signature=1": data for name, data in FILES.items()}
    run(tmp_path, mirrors=(server.url,))
    assert len(server.requests) == 8


def test_redirect_from_https_to_http_is_refused() -> None:
    from urllib.request import Request

    handler = mirror._CheckedRedirects()
    request = Request("https://example.org/file")
    with (REPOSITORY / "pyproject.toml").open("rb") as body, pytest.raises(SourceError, match="is not https"):
        handler.redirect_request(request, body, 302, "Found", Any, "http://127.0.0.1/file")  # type: ignore[arg-type]


def test_unknown_size_is_bounded(
    tmp_path: Path, server: Server, tiny: KnownDataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    archives = {role: dataclasses.replace(archive, gz_bytes=None) for role, archive in tiny.archives.items()}
    monkeypatch.setitem(CATALOG, "tiny", dataclasses.replace(tiny, archives=archives))
    monkeypatch.setattr(mirror, "_MOST_BYTES", 1 << 20)
    server.fail("endless", names=[IMAGES])
    server.fail("cut", times=1, names=["t10k-images-idx3-ubyte.gz"])
    assert "sends more than the 1048576 bytes" in refused(tmp_path, mirrors=(server.url,))
    server.faults.clear()
    assert run(tmp_path, mirrors=(server.url,))["train_images"].path.read_bytes() == FILES[IMAGES]


def test_dead_mirror_is_asked_once(
    tmp_path: Path, server: Server, tiny: KnownDataSet, lines: pytest.LogCaptureFixture
) -> None:
    dead = Server()
    dead.server_close()
    archives = run(tmp_path, mirrors=(dead.url, server.url))
    assert len(archives) == 4
    assert len(warnings(lines)) == 1
    assert f"{dead.url}: Connection refused" in warnings(lines)[0]


def test_full_disk_is_not_the_mirrors_fault(
    tmp_path: Path, server: Server, tiny: KnownDataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *arguments: Any, **options: Any) -> Any:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match="No space left on device"):
        run(tmp_path, mirrors=(server.url,))


def test_unknown_data_set(tmp_path: Path) -> None:
    message = refused(tmp_path, "minst")
    for text in ("minst", "mnist, fashion-mnist, kmnist", "--data"):
        assert text in message


def test_no_mirror_known(tmp_path: Path) -> None:
    assert "no https mirror is known" in refused(tmp_path, "kmnist")


# --- progress


def test_progress_bar(
    tmp_path: Path,
    server: Server,
    tiny: KnownDataSet,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    run(tmp_path, mirrors=(server.url,))
    captured = capsys.readouterr()
    assert IMAGES in captured.err
    assert captured.out == ""


# --- the offline package


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a work directory with MNIST from the real package."""
    work = tmp_path_factory.mktemp("offline")
    run(work, "mnist", offline=True)
    return work


def test_offline_package_is_mnist(unpacked: Path) -> None:
    archives = run(unpacked, "mnist", offline=True)
    expected = {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    }
    assert {archive.path.name: digest_file(archive.path, "md5") for archive in archives.values()} == expected
    assert sorted(path.name for path in (unpacked / "archives/mnist").iterdir()) == sorted(expected)
    for role, archive in ((archive.role, archive) for archive in archives.values()):
        assert archive.known == "mnist"
        assert archive.bytes == CATALOG["mnist"].archives[role].bytes
    assert "pureml" not in sys.modules


def test_mirror_comes_before_the_offline_package(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, lines: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(CATALOG, "mnist", dataclasses.replace(CATALOG["mnist"], mirrors=()))
    server.fail("missing")
    archives = run(tmp_path, "mnist", mirrors=(server.url,))
    assert len(server.requests) == 4
    assert len(warnings(lines)) == 4
    assert {archive.path.name for archive in archives.values()} == set(NAMES.values())


def test_offline_package_completes_a_folder(tmp_path: Path, unpacked: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in list(NAMES.values())[:3]:
        (folder / name).symlink_to(unpacked / "archives/mnist" / name)
    archives = run(tmp_path, "mnist", data=str(folder), offline=True)
    assert archives["test_labels"].path == tmp_path / "archives/mnist/t10k-labels-idx1-ubyte"
    assert [path.name for path in (tmp_path / "archives/mnist").iterdir()] == ["t10k-labels-idx1-ubyte"]


def test_offline_package_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline, "PACKAGE", "no-such-package-at-all")
    message = refused(tmp_path, "mnist", offline=True)
    assert "is not installed" in message
    assert "make setup" in message


@pytest.mark.parametrize("content", [b"not a zip", None])
def test_damaged_offline_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None) -> None:
    path = tmp_path / "data.zip"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(offline, "_FILE", str(path))
    expected = "cannot be read (BadZipFile" if content else "has no file"
    assert expected in refused(tmp_path, "mnist", offline=True)


def test_offline_package_with_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    monkeypatch.setattr(offline, "_read", lambda path, role, shape: np.zeros(shape, np.uint8))
    assert "found MD5" in refused(tmp_path, "mnist", offline=True)
    assert list((tmp_path / "archives/mnist").iterdir()) == []


# --- processes


_PROCESS = """
import json, sys
from pathlib import Path
from jobs.fetch.catalog import CATALOG, KnownArchive, KnownDataSet
from jobs.fetch.config import FetchConfig
from jobs.fetch.stage import fetch
work, url, archives = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
CATALOG["tiny"] = KnownDataSet("tiny", {role: KnownArchive(**archive) for role, archive in archives.items()}, (url,))
print("ready", flush=True)
sys.stdin.readline()
found = fetch(FetchConfig(dataset="tiny"), work / "archives", work / ".locks")
print(json.dumps({role: archive.sha256 for role, archive in found.items()}))
"""


def test_two_processes_at_once(tmp_path: Path, server: Server, tiny: KnownDataSet) -> None:
    server.delay = 0.1
    catalog = json.dumps({role: dataclasses.asdict(archive) for role, archive in tiny.archives.items()})
    argv = [sys.executable, "-c", _PROCESS, str(tmp_path), server.url, catalog]
    processes = [
        subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
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
    assert len(server.requests) == 4  # the second found what the first had fetched


def test_stage_imports_nothing_heavy() -> None:
    code = "import sys, jobs.fetch.stage; print([m for m in ('numpy', 'zarr', 'rich', 'pyspark') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
