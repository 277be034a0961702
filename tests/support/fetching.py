"""A small data set, a web server with faults that serves it, and ways to fetch it, for the tests of fetch."""

import gzip
import hashlib
import http.server
import logging
import random
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from jobs.archive import ROLES, Archive, Role
from jobs.errors import InputError
from jobs.fetch.catalog import CATALOG
from jobs.fetch.config import FetchConfig
from jobs.fetch.data_set import DataSet, KnownArchive
from jobs.fetch.stage import fetch
from jobs.records import FetchOutputs

REPOSITORY = Path(__file__).parents[2]
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
    """Return an IDX archive of random values, which gzip cannot compress."""
    count = 1
    for size in shape:
        count *= size
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape) + random.Random(seed).randbytes(count)  # noqa: S311


PLAIN: dict[Role, bytes] = {role: idx_bytes(SHAPES[role], seed) for seed, role in enumerate(ROLES)}
# The test labels are some of the training labels.
PLAIN["test_labels"] = idx_bytes((20,), 0)[:8] + PLAIN["train_labels"][8:28]
PACKED: dict[Role, bytes] = {role: gzip.compress(data, mtime=0) for role, data in PLAIN.items()}
FILES: dict[str, bytes] = {f"{NAMES[role]}.gz": data for role, data in PACKED.items()}
IMAGES = "train-images-idx3-ubyte.gz"


def known_archive(role: Role) -> KnownArchive:
    return KnownArchive(
        name=NAMES[role],
        shape=SHAPES[role],
        gz_md5=md5(PACKED[role]),
        gz_bytes=len(PACKED[role]),
        md5=md5(PLAIN[role]),
    )


# --- a web server with faults


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` under /, with ranges. `faults`: by file name, the faults of its next requests."""

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
        """Ignore clients that hang up."""

    def fail(self, fault: str, times: int = 1000, names: Sequence[str] = tuple(FILES)) -> None:
        """Make the next requests for these files fail in this way."""
        for name in names:
            self.faults[name] = [fault] * times


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        requested = self.headers.get("Range")
        self.server.requests.append((name, requested))
        time.sleep(self.server.delay)
        faults = self.server.faults.get(name)
        fault = faults.pop(0) if faults else "none"
        with suppress(OSError):  # the client may hang up
            getattr(self, f"serve_{fault}")(self.server.files.get(name), requested)

    def serve_none(self, data: bytes | None, requested: str | None) -> None:
        if data is None:
            return self.send_error(404)
        start = int(requested.removeprefix("bytes=").removesuffix("-")) if requested else 0
        if start >= len(data):
            return self.send_error(416)
        headers = {"Content-Length": len(data) - start}
        if requested:
            headers |= {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}  # type: ignore[dict-item]
        self.head(206 if requested else 200, headers)
        self.wfile.write(data[start:])

    def head(self, status: int, headers: dict[str, Any]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, str(value))
        self.end_headers()

    def serve_missing(self, data: bytes, requested: str | None) -> None:
        self.send_error(404)

    def serve_cut(self, data: bytes, requested: str | None) -> None:
        """Announce all that was requested, and send half of it."""
        start = int(requested.removeprefix("bytes=").removesuffix("-")) if requested else 0
        if requested:
            rest = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
            self.head(206, {"Content-Length": len(data) - start} | rest)
        else:
            self.head(200, {"Content-Length": len(data)})
        self.wfile.write(data[start : start + (len(data) - start) // 2])

    def serve_no_ranges(self, data: bytes, requested: str | None) -> None:
        self.serve_none(data, None)

    def serve_wrong_range(self, data: bytes, requested: str | None) -> None:
        self.head(206, {"Content-Length": 10, "Content-Range": f"bytes 0-9/{len(data)}"})
        self.wfile.write(data[:10])

    def serve_wrong(self, data: bytes, requested: str | None) -> None:
        self.serve_none(data[:-1] + bytes([data[-1] ^ 1]), requested)

    def serve_short(self, data: bytes, requested: str | None) -> None:
        self.serve_none(b"<html>please log in</html>", None)

    def serve_silence(self, data: bytes, requested: str | None) -> None:
        self.server.stop.wait(10)

    def serve_stall(self, data: bytes, requested: str | None) -> None:
        self.head(200, {"Content-Length": len(data)})
        self.wfile.write(data[: len(data) // 2])
        self.wfile.flush()
        self.server.stop.wait(10)

    def serve_drip(self, data: bytes, requested: str | None) -> None:
        self.head(200, {"Content-Length": len(data)})
        for byte in data:
            self.wfile.write(bytes([byte]))
            self.server.stop.wait(0.05)

    def serve_endless(self, data: bytes, requested: str | None) -> None:
        self.head(200, {})
        while not self.server.stop.is_set():
            self.wfile.write(bytes(1 << 16))

    def serve_to_http(self, data: bytes, requested: str | None) -> None:
        self.head(302, {"Location": "http://mirror.example/file"})

    def serve_to_file(self, data: bytes, requested: str | None) -> None:
        self.head(302, {"Location": "file:///etc/hostname"})

    def serve_loop(self, data: bytes, requested: str | None) -> None:
        self.head(302, {"Location": self.path})

    def serve_signed(self, data: bytes, requested: str | None) -> None:
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
def tiny(monkeypatch: pytest.MonkeyPatch) -> DataSet:
    """Add a data set without mirrors to the catalog."""
    data_set = DataSet(name="tiny", archives={role: known_archive(role) for role in ROLES}, mirrors=())
    monkeypatch.setitem(CATALOG, "tiny", data_set)
    return data_set


@pytest.fixture(autouse=True)
def lines(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """Capture the log lines, whatever other tests did to the logger."""
    monkeypatch.setattr(logging.getLogger("idxtrain"), "propagate", True)
    caplog.set_level(logging.INFO, logger="idxtrain")
    return caplog


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    messages = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert all("\n" not in message for message in messages)
    return messages


def run(work: Path, dataset: str = "tiny", **options: Any) -> dict[str, Archive]:
    return dict(fetched(work, dataset, **options).archives)


def fetched(work: Path, dataset: str = "tiny", **options: Any) -> FetchOutputs:
    return fetch(FetchConfig(dataset=dataset, **options), work / "archives", work / ".locks")


def refused(work: Path, dataset: str = "tiny", **options: Any) -> str:
    """Run fetch, which must be refused; return its error, which must be one line."""
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
