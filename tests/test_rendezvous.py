"""Where ranks find each other: what it answers, whom, and for how long."""

import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import psutil
import pytest
from horovod.runner.common.util.hosts import get_host_assignments, parse_hosts
from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer

from deploy.launcher import rendezvous
from deploy.launcher.rendezvous import Rendezvous

HOST = "127.0.0.1"
SET = "_process_set_hash_512d4d557435ff2d"


def ask(
    port: int,
    method: str,
    path: str,
    body: bytes | None = None,
    source: str = HOST,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> tuple[int, bytes]:
    """Return status and body of an answer; status 0 where the connection is closed without one."""
    connection = http.client.HTTPConnection(HOST, port, timeout=20, source_address=(source, 0))
    try:
        connection.request(method, path, body, dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (ConnectionError, http.client.RemoteDisconnected):
        return 0, b""
    finally:
        connection.close()


@pytest.fixture
def two() -> Iterator[Rendezvous]:
    """The rendezvous of two ranks of this machine."""
    started = Rendezvous({HOST: 2}, HOST, [0])
    started.admit(0, HOST)
    started.admit(1, HOST)
    yield started
    started.close()


def path(at: Rendezvous, scope: str, name: str) -> str:
    """Return the path that Horovod's client makes of the address it is given."""
    address = rendezvous.environment(at.address, at.port, at.key, "lo")["HOROVOD_GLOO_RENDEZVOUS_ADDR"]
    return f"http://{address}:{at.port}/{scope}/{name}".removeprefix(f"http://{HOST}:{at.port}")


def test_a_rank_finds_what_another_one_has_left(two: Rendezvous) -> None:
    assert ask(two.port, "GET", path(two, "global", "0")) == (404, b"")
    assert ask(two.port, "PUT", path(two, "global", "0"), b"here") == (200, b"")
    assert ask(two.port, "GET", path(two, "global", "0")) == (200, b"here")
    assert ask(two.port, "GET", path(two, "global" + SET, "0")) == (404, b"")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize(
    "there", ["/global/0", "/{wrong}:{port}/global/0", "/{key}/global/0", "/", "//{key}:{port}", "/é"]
)
def test_without_the_key_nothing_is_read_written_or_ended(two: Rendezvous, method: str, there: str) -> None:
    ask(two.port, "PUT", path(two, "global", "0"), b"here")
    asked = there.format(wrong="0" * 32, port=two.port, key=two.key).encode().decode("latin-1")
    connection = http.client.HTTPConnection(HOST, two.port, timeout=20)
    connection._encode_request = lambda request: request.encode("latin-1")  # type: ignore[attr-defined]
    connection.request(method, asked, b"mine" if method == "PUT" else None)
    assert connection.getresponse().status == 403
    connection.close()
    assert ask(two.port, "GET", path(two, "global", "0")) == (200, b"here")


@pytest.mark.parametrize("method", ["HEAD", "POST", "PATCH", "OPTIONS", "CONNECT", "TRACE"])
def test_other_methods_are_refused(two: Rendezvous, method: str) -> None:
    assert ask(two.port, method, path(two, "global", "0"))[0] == 501


@pytest.mark.parametrize(
    ("scope", "name"),
    [
        ("other", "0"),
        ("global", "2"),
        ("global", "00"),
        ("global", "-1"),
        ("global", "9" * 5000),
        ("global", "rank_2"),
        ("global", "rank_0/x"),
        ("global_process_set_hash_xyz", "0"),
        ("local_elsewhere", "0"),
        ("cross_2", "0"),
        ("cross_0", "1"),
        ("..", "etc"),
    ],
)
def test_there_is_nothing_but_what_gloo_stores(two: Rendezvous, scope: str, name: str) -> None:
    assert ask(two.port, "PUT", path(two, scope, name), b"x")[0] == 403
    assert ask(two.port, "GET", path(two, scope, name))[0] == 403


def test_one_set_of_processes_is_all_there_is(two: Rendezvous) -> None:
    assert ask(two.port, "PUT", path(two, "global" + SET, "0"), b"x")[0] == 200
    assert ask(two.port, "PUT", path(two, "global_process_set_hash_1", "0"), b"x")[0] == 403


def test_a_value_is_short_and_never_replaced(two: Rendezvous) -> None:
    there = path(two, "global", "1")
    assert ask(two.port, "PUT", there, bytes(193))[0] == 413
    assert ask(two.port, "PUT", there, headers={"Content-Length": "1" + "0" * 12})[0] == 411
    assert ask(two.port, "PUT", there, headers={"Content-Length": "-1"})[0] == 411
    assert ask(two.port, "GET", there)[0] == 404
    assert ask(two.port, "PUT", there, bytes(192))[0] == 200
    assert ask(two.port, "PUT", there, bytes(192))[0] == 200  # sent again by a rank that got no answer
    assert ask(two.port, "PUT", there, b"mine")[0] == 409
    assert ask(two.port, "GET", there) == (200, bytes(192))


def test_another_address_of_this_machine_gets_no_answer(two: Rendezvous) -> None:
    assert ask(two.port, "GET", path(two, "global", "0"), source="127.0.0.2") == (0, b"")


def test_a_node_is_answered_once_its_rank_has_told_its_address() -> None:
    at = Rendezvous({"n1": 1, "n2": 1}, HOST, [0])
    answers: list[tuple[int, bytes]] = []
    waiting = threading.Thread(
        target=lambda: answers.append(ask(at.port, "GET", path(at, "global", "0"), source="127.0.0.3"))
    )
    waiting.start()
    at.admit(0, HOST)
    time.sleep(0.3)
    assert not answers
    at.admit(1, "127.0.0.3")
    waiting.join(timeout=20)
    assert answers == [(404, b"")]
    assert ask(at.port, "GET", path(at, "global", "0"), source="127.0.0.2") == (0, b"")
    at.close()


def test_idle_connections_keep_no_rank_away(two: Rendezvous) -> None:
    idle = [socket.create_connection((HOST, two.port), timeout=20) for _ in range(600)]
    begin = time.monotonic()
    assert ask(two.port, "GET", path(two, "global", "0"))[0] == 404
    assert time.monotonic() - begin < 20
    for connection in idle:
        connection.close()


def test_it_is_closed_once_all_ranks_are_connected(two: Rendezvous) -> None:
    scopes = [
        (scope + ending, str(rank))
        for ending in ("", SET)
        for scope, ranks in (("global", (0, 1)), (f"local_{HOST}", (0, 1)), ("cross_0", (0,)), ("cross_1", (0,)))
        for rank in ranks
    ]
    for scope, rank in scopes:
        assert not two.closed
        assert ask(two.port, "DELETE", path(two, scope, rank)) == (200, b"")
    deadline = time.monotonic() + 20
    while not refuses(two.port):
        assert time.monotonic() < deadline
    two.close()  # once more is once too often, and no fault


def refuses(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # it was just being closed
        return False
    return False


@pytest.mark.parametrize("text", ["a:1", "a:3", "a:2,b:2", "a:4,b:3", "a:1,b:1,c:1"])
def test_scopes_have_the_sizes_that_horovod_gives_them(text: str) -> None:
    hosts = {host: int(ranks) for host, ranks in (slot.split(":") for slot in text.split(","))}
    theirs = RendezvousHTTPServer((HOST, 0), RendezvousHandler, False)
    theirs.init(get_host_assignments(parse_hosts(text), sum(hosts.values())))
    theirs.server_close()
    assert rendezvous._Store(hosts)._sizes == theirs.scope_size


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_another_user_of_this_machine_cannot_meddle_with_the_ranks(tmp_path: Path) -> None:
    rank = (
        "import os, time\nname = os.environ['HOROVOD_RANK']\n"
        f"there = os.path.join({str(tmp_path)!r}, name)\nport = os.environ['HOROVOD_GLOO_RENDEZVOUS_PORT']\n"
        "open(there + '.new', 'w').write(port)\nos.rename(there + '.new', there)\ntime.sleep(60)"
    )
    command = [sys.executable, "-m", "deploy.launcher", "--np", "2", sys.executable, "-c", rank]
    launcher = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: {file.name for file in tmp_path.iterdir()} == {"0", "1"})
        port = int((tmp_path / "0").read_text())
        ranks = [child.pid for child in psutil.Process(launcher.pid).children(recursive=True)]
        done = subprocess.run(
            [sys.executable, "-c", NEIGHBOUR, str(port), str(launcher.pid), *map(str, ranks)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.stdout.split() == ["GET", "403", "PUT", "403", "DELETE", "403", "key", "unknown"], done.stderr
    finally:
        launcher.terminate()
        launcher.wait(timeout=30)


# Another user of the machine who knows the port: looks, leaves an address of its own, ends the others' scope; and looks
# for the key in what the kernel shows of the launcher and of the ranks.
NEIGHBOUR = """
import encodings.idna, http.client, os, sys
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
port, *processes = sys.argv[1:]
for method in ("GET", "PUT", "DELETE"):
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=20)
    connection.request(method, "/global/0", b"mine" if method == "PUT" else None)
    print(method, connection.getresponse().status)
found = b""
for process in processes:
    found += open(f"/proc/{process}/cmdline", "rb").read()
    try:
        found += open(f"/proc/{process}/environ", "rb").read()
    except PermissionError:
        pass
print("key", "found" if b"RENDEZVOUS_ADDR" in found else "unknown")
"""
