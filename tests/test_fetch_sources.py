"""The sources of archives beside the user's folder: a real web server with faults, the real offline package."""

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from jobs.fetch import mirror, offline
from jobs.fetch.catalog import CATALOG
from jobs.fetch.data_set import DataSet
from jobs.fetch.source import SourceError
from jobs.files import digest_file, sha256_file
from tests.support.fetching import (
    FILES,
    IMAGES,
    NAMES,
    PACKED,
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


# --- mirrors


def test_archives_are_downloaded_once(
    tmp_path: Path, server: Server, tiny: DataSet, lines: pytest.LogCaptureFixture
) -> None:
    archives = run(tmp_path, mirrors=(server.url,))
    for role, archive in ((archive.role, archive) for archive in archives.values()):
        assert archive.path == tmp_path / "archives/tiny" / f"{NAMES[role]}.gz"
        assert archive.path.read_bytes() == PACKED[role]
        assert (archive.bytes, archive.sha256) == (len(PACKED[role]), sha256_file(archive.path))
        assert archive.known == "tiny"
    assert warnings(lines) == []
    assert [line for line in lines.messages if server.url in line] == [
        f"tiny: {name} from {server.url}" for name in FILES
    ]
    assert sorted(path.name for path in (tmp_path / "archives/tiny").iterdir()) == sorted(FILES)
    server.requests.clear()
    assert run(tmp_path, mirrors=(server.url,)) == archives
    assert server.requests == []


def test_a_damaged_download_is_replaced(
    tmp_path: Path, server: Server, tiny: DataSet, lines: pytest.LogCaptureFixture
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


def test_the_users_mirrors_are_asked_first(
    tmp_path: Path, server: Server, tiny: DataSet, monkeypatch: pytest.MonkeyPatch, lines: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(CATALOG, "tiny", tiny.model_copy(update={"mirrors": (server.url,)}))
    run(tmp_path, mirrors=(f"{server.url}user",))
    labels = "train-labels-idx1-ubyte.gz"
    names = [name for name, _ in server.requests]
    assert names[:4] == [f"user/{name}" for name in FILES]  # the user's first
    assert names[4:] == list(FILES)
    assert names[5] == labels
    assert len(warnings(lines)) == 4  # each failed attempt, one line
    assert f"train-labels-idx1-ubyte from {server.url}user/: HTTP 404" in warnings(lines)[1]


def test_offline_asks_no_mirror(tmp_path: Path, server: Server, tiny: DataSet) -> None:
    message = refused(tmp_path, mirrors=(server.url,), offline=True)
    assert server.requests == []
    assert "fetch.offline" in message


def test_an_interrupted_transfer_is_resumed(tmp_path: Path, server: Server, tiny: DataSet) -> None:
    server.fail("cut", times=2, names=[IMAGES])
    archives = run(tmp_path, mirrors=(server.url,))
    assert archives["train_images"].path.read_bytes() == FILES[IMAGES]
    size = len(FILES[IMAGES])
    ranges = [asked for name, asked in server.requests if name == IMAGES]
    assert ranges == [None, f"bytes={size // 2}-", f"bytes={size // 2 + (size - size // 2) // 2}-"]


def test_the_next_run_resumes_an_interrupted_transfer(
    tmp_path: Path, server: Server, tiny: DataSet, lines: pytest.LogCaptureFixture
) -> None:
    server.fail("cut", names=[IMAGES])
    assert "the transfer ended after" in refused(tmp_path, mirrors=(server.url,))
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
def test_a_server_without_ranges_sends_the_whole_file(
    tmp_path: Path, server: Server, tiny: DataSet, fault: str
) -> None:
    fill(tmp_path / "archives/tiny", {f"{IMAGES}.part": FILES[IMAGES][:1000]})
    server.fail(fault, times=1, names=[IMAGES])
    archives = run(tmp_path, mirrors=(server.url,))
    assert archives["train_images"].path.read_bytes() == FILES[IMAGES]
    assert server.requests[0] == (IMAGES, "bytes=1000-")


@pytest.mark.parametrize("kind", ["symbolic link", "dangling link", "second name", "named pipe"])
def test_a_link_or_pipe_in_place_of_a_part_file_is_never_written_to(
    tmp_path: Path, server: Server, tiny: DataSet, kind: str
) -> None:
    folder, victim = tmp_path / "archives/tiny", tmp_path / "victim"
    folder.mkdir(parents=True)
    part = folder / f"{IMAGES}.part"
    if kind != "dangling link":
        victim.write_bytes(b"alias important=1")
    if kind.endswith("link"):
        part.symlink_to(victim)
    elif kind == "second name":
        part.hardlink_to(victim)
    else:
        os.mkfifo(part)
    archives = run(tmp_path, mirrors=(server.url,))
    assert archives["train_images"].path.read_bytes() == FILES[IMAGES]
    assert victim.exists() == (kind != "dangling link")
    assert not victim.exists() or victim.read_bytes() == b"alias important=1"
    assert server.requests[0] == (IMAGES, None)  # nor is it resumed


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_another_users_part_file_is_not_resumed(tmp_path: Path, server: Server, tiny: DataSet) -> None:
    fill(tmp_path / "archives/tiny", {f"{IMAGES}.part": FILES[IMAGES][:1000]})
    os.chown(tmp_path / "archives/tiny" / f"{IMAGES}.part", 65534, -1)
    archives = run(tmp_path, mirrors=(server.url,))
    assert server.requests[0] == (IMAGES, None)
    assert archives["train_images"].path.stat().st_uid == 0


@pytest.mark.parametrize("part", [b"x" * 1000, b"x" * len(FILES[IMAGES]), b"x" * (len(FILES[IMAGES]) + 5)])
def test_a_part_file_of_another_file_is_discarded(
    tmp_path: Path, server: Server, tiny: DataSet, part: bytes, lines: pytest.LogCaptureFixture
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
        # A dead connection: the other files are not requested.
        ("silence", "no answer in time", 1),
        ("stall", "no answer in time", 1),
        ("drip", "sends less than", 1),
    ],
)
def test_a_faulty_mirror_is_one_line_and_one_warning_per_file(
    tmp_path: Path,
    server: Server,
    tiny: DataSet,
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
        assert left == []  # what is known to be wrong is not kept


def test_a_redirect_to_an_allowed_url_is_followed(tmp_path: Path, server: Server, tiny: DataSet) -> None:
    server.fail("signed", times=1)
    server.files |= {f"{name}?signature=1": data for name, data in FILES.items()}
    run(tmp_path, mirrors=(server.url,))
    assert len(server.requests) == 8


def test_a_redirect_from_https_to_http_is_refused() -> None:
    from urllib.request import Request

    handler = mirror._CheckedRedirects()
    request = Request("https://example.org/file")
    with (REPOSITORY / "pyproject.toml").open("rb") as body, pytest.raises(SourceError, match="is not https"):
        handler.redirect_request(request, body, 302, "Found", Any, "http://127.0.0.1/file")  # type: ignore[arg-type]


def test_a_download_of_unknown_size_is_bounded(
    tmp_path: Path, server: Server, tiny: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    archives = {role: archive.model_copy(update={"gz_bytes": None}) for role, archive in tiny.archives.items()}
    monkeypatch.setitem(CATALOG, "tiny", tiny.model_copy(update={"archives": archives}))
    monkeypatch.setattr(mirror, "_MAX_BYTES", 1 << 20)
    server.fail("endless", names=[IMAGES])
    server.fail("cut", times=1, names=["t10k-images-idx3-ubyte.gz"])
    assert "sends more than the expected 1048576 bytes" in refused(tmp_path, mirrors=(server.url,))
    server.faults.clear()
    assert run(tmp_path, mirrors=(server.url,))["train_images"].path.read_bytes() == FILES[IMAGES]


def test_a_dead_mirror_is_asked_once(
    tmp_path: Path, server: Server, tiny: DataSet, lines: pytest.LogCaptureFixture
) -> None:
    dead = Server()
    dead.server_close()
    archives = run(tmp_path, mirrors=(dead.url, server.url))
    assert len(archives) == 4
    assert len(warnings(lines)) == 1
    assert f"{dead.url}: Connection refused" in warnings(lines)[0]


def test_a_full_disk_is_not_blamed_on_the_mirror(
    tmp_path: Path, server: Server, tiny: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> Any:
        raise OSError(28, "No space left on device")  # names no file, as the call has a descriptor

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*\.gz\.part'$"):
        run(tmp_path, mirrors=(server.url,))


def test_an_unknown_data_set_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    message = refused(tmp_path, "minst")
    for text in ("minst", "kmnist, mnist, qmnist", "did you mean mnist?", "--data"):
        assert text in message


def test_a_data_set_without_mirrors_is_refused(tmp_path: Path) -> None:
    assert "no https mirror is known" in refused(tmp_path, "kmnist")


# --- progress


def test_a_download_has_a_progress_bar_on_a_terminal(
    tmp_path: Path,
    server: Server,
    tiny: DataSet,
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
    """Return a work folder with MNIST from the real package."""
    work = tmp_path_factory.mktemp("offline")
    run(work, "mnist", offline=True)
    return work


def test_the_offline_package_is_mnist(unpacked: Path) -> None:
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


def test_mirrors_are_asked_before_the_offline_package(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, lines: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(CATALOG, "mnist", CATALOG["mnist"].model_copy(update={"mirrors": ()}))
    server.fail("missing")
    archives = run(tmp_path, "mnist", mirrors=(server.url,))
    assert len(server.requests) == 4
    assert len(warnings(lines)) == 4
    assert {archive.path.name for archive in archives.values()} == set(NAMES.values())


def test_the_offline_package_completes_a_folder(tmp_path: Path, unpacked: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in list(NAMES.values())[:3]:
        (folder / name).symlink_to(unpacked / "archives/mnist" / name)
    archives = run(tmp_path, "mnist", data=str(folder), offline=True)
    assert archives["test_labels"].path == tmp_path / "archives/mnist/t10k-labels-idx1-ubyte"
    assert [path.name for path in (tmp_path / "archives/mnist").iterdir()] == ["t10k-labels-idx1-ubyte"]


def test_a_missing_offline_package_is_named_with_its_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline, "PACKAGE", "no-such-package-at-all")
    message = refused(tmp_path, "mnist", offline=True)
    assert "is not installed" in message
    assert "make setup" in message


@pytest.mark.parametrize("content", [b"not a zip", None])
def test_a_damaged_offline_package_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    path = tmp_path / "data.zip"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(offline, "_FILE", str(path))
    expected = "cannot be read (BadZipFile" if content else "has no file"
    assert expected in refused(tmp_path, "mnist", offline=True)


def test_an_offline_package_with_other_data_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    monkeypatch.setattr(offline, "_read", lambda path, role, shape: np.zeros(shape, np.uint8))
    assert "found MD5" in refused(tmp_path, "mnist", offline=True)
    assert list((tmp_path / "archives/mnist").iterdir()) == []
