"""The rendezvous of the ranks: what it answers, to whom, and for how long."""

import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
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


def request(
    port: int,
    method: str,
    path: str,
    body: bytes | None = None,
    source: str = HOST,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> tuple[int, bytes]:
    """Return status and body of a response; status 0 if the connection is closed without one."""
    connection = http.client.HTTPConnection(HOST, port, timeout=20, source_address=(source, 0))
    try:
        connection.request(method, path, body, dict(headers))
        response = connection.getresponse()
        return response.status, response.read()
    except (ConnectionError, http.client.RemoteDisconnected):
        return 0, b""
    finally:
        connection.close()


@pytest.fixture
def two() -> Iterator[Rendezvous]:
    """A rendezvous of two ranks on this machine."""
    server = Rendezvous({HOST: 2}, HOST, [0])
    server.admit(0, HOST)
    server.admit(1, HOST)
    yield server
    server.close()


def path(server: Rendezvous, scope: str, name: str) -> str:
    """Return the path that Horovod's client makes of the address in its environment."""
    address = rendezvous.environment(server.address, server.port, server.key, "lo")["HOROVOD_GLOO_RENDEZVOUS_ADDR"]
    return f"http://{address}:{server.port}/{scope}/{name}".removeprefix(f"http://{HOST}:{server.port}")


def test_a_rank_reads_what_another_rank_stored(two: Rendezvous) -> None:
    assert request(two.port, "GET", path(two, "global", "0")) == (404, b"")
    assert request(two.port, "PUT", path(two, "global", "0"), b"here") == (200, b"")
    assert request(two.port, "GET", path(two, "global", "0")) == (200, b"here")
    assert request(two.port, "GET", path(two, "global" + SET, "0")) == (404, b"")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize(
    "target", ["/global/0", "/{wrong}:{port}/global/0", "/{key}/global/0", "/", "//{key}:{port}", "/é"]
)
def test_without_the_key_nothing_is_read_written_or_ended(two: Rendezvous, method: str, target: str) -> None:
    request(two.port, "PUT", path(two, "global", "0"), b"here")
    url = target.format(wrong="0" * 32, port=two.port, key=two.key).encode().decode("latin-1")
    connection = http.client.HTTPConnection(HOST, two.port, timeout=20)
    connection._encode_request = lambda request: request.encode("latin-1")  # type: ignore[attr-defined]
    connection.request(method, url, b"forged" if method == "PUT" else None)
    assert connection.getresponse().status == 403
    connection.close()
    assert request(two.port, "GET", path(two, "global", "0")) == (200, b"here")


@pytest.mark.parametrize("method", ["HEAD", "POST", "PATCH", "OPTIONS", "CONNECT", "TRACE"])
def test_http_methods_other_than_get_put_and_delete_are_refused(two: Rendezvous, method: str) -> None:
    assert request(two.port, method, path(two, "global", "0"))[0] == 501


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
def test_only_scopes_and_names_that_gloo_uses_exist(two: Rendezvous, scope: str, name: str) -> None:
    assert request(two.port, "PUT", path(two, scope, name), b"x")[0] == 403
    assert request(two.port, "GET", path(two, scope, name))[0] == 403


def test_only_one_process_set_exists(two: Rendezvous) -> None:
    assert request(two.port, "PUT", path(two, "global" + SET, "0"), b"x")[0] == 200
    assert request(two.port, "PUT", path(two, "global_process_set_hash_1", "0"), b"x")[0] == 403


def test_a_value_has_a_maximum_size_and_is_never_replaced(two: Rendezvous) -> None:
    target = path(two, "global", "1")
    assert request(two.port, "PUT", target, bytes(193))[0] == 413
    assert request(two.port, "PUT", target, headers={"Content-Length": "1" + "0" * 12})[0] == 411
    assert request(two.port, "PUT", target, headers={"Content-Length": "-1"})[0] == 411
    assert request(two.port, "GET", target)[0] == 404
    assert request(two.port, "PUT", target, bytes(192))[0] == 200
    assert request(two.port, "PUT", target, bytes(192))[0] == 200  # repeated by a rank that got no response
    assert request(two.port, "PUT", target, b"other")[0] == 409
    assert request(two.port, "GET", target) == (200, bytes(192))


def test_another_address_of_this_machine_gets_no_answer(two: Rendezvous) -> None:
    assert request(two.port, "GET", path(two, "global", "0"), source="127.0.0.2") == (0, b"")


def test_a_node_is_answered_once_its_rank_is_admitted() -> None:
    server = Rendezvous({"n1": 1, "n2": 1}, HOST, [0])
    responses: list[tuple[int, bytes]] = []
    waiting = threading.Thread(
        target=lambda: responses.append(request(server.port, "GET", path(server, "global", "0"), source="127.0.0.3"))
    )
    waiting.start()
    server.admit(0, HOST)
    time.sleep(0.3)
    assert not responses
    server.admit(1, "127.0.0.3")
    waiting.join(timeout=20)
    assert responses == [(404, b"")]
    assert request(server.port, "GET", path(server, "global", "0"), source="127.0.0.2") == (0, b"")
    server.close()


def test_idle_connections_do_not_block_a_rank(two: Rendezvous) -> None:
    idle = [socket.create_connection((HOST, two.port), timeout=20) for _ in range(600)]
    begin = time.monotonic()
    assert request(two.port, "GET", path(two, "global", "0"))[0] == 404
    assert time.monotonic() - begin < 20
    for connection in idle:
        connection.close()


_SERVE = """
import sys, time
from deploy.launcher.rendezvous import Rendezvous
server = Rendezvous({"127.0.0.1": 2}, "127.0.0.1", [0])
server.admit(0, "127.0.0.1")
server.admit(1, "127.0.0.1")
print(server.port, flush=True)
time.sleep(60)
"""


def test_many_connections_with_large_headers_take_little_memory() -> None:
    """240 connections of 6 MB each grew the launcher to 3.4 GB while http.server kept their headers."""

    def send() -> None:
        with suppress(OSError), socket.create_connection((HOST, port), timeout=5) as connection:
            connection.sendall(b"GET /global/0 HTTP/1.1\r\n")
            for number in range(99):  # not the end of the headers
                connection.sendall(b"H%d: " % number + b"x" * 65_000 + b"\r\n")
            time.sleep(1)

    with subprocess.Popen([sys.executable, "-c", _SERVE], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        port, memory = int(process.stdout.readline()), psutil.Process(process.pid).memory_info
        before = largest = memory().rss
        senders = [threading.Thread(target=send) for _ in range(60)]
        for sender in senders:
            sender.start()
        while any(sender.is_alive() for sender in senders):
            largest = max(largest, memory().rss)
            time.sleep(0.02)
        process.kill()
    assert largest - before < 50e6


def test_connections_are_limited_also_before_the_ranks_are_known() -> None:
    """A stranger's connections wait for the ranks' addresses; the oldest of too many do not wait on."""
    server, before = Rendezvous({HOST: 2}, HOST, [0]), threading.active_count()
    strangers = []
    try:
        for _ in range(600):
            strangers.append(socket.create_connection((HOST, server.port), timeout=5, source_address=("127.0.0.9", 0)))
        time.sleep(3)  # all are accepted, and would wait for 10 s
        assert threading.active_count() - before <= rendezvous._MAX_OPEN + 10
        server.admit(0, HOST)
        server.admit(1, HOST)
        assert request(server.port, "PUT", path(server, "global", "0"), b"value")[0] == 200
    finally:
        for each in strangers:
            each.close()
        server.close()


def test_it_closes_once_all_ranks_are_connected(two: Rendezvous) -> None:
    scopes = [
        (scope + ending, str(rank))
        for ending in ("", SET)
        for scope, ranks in (("global", (0, 1)), (f"local_{HOST}", (0, 1)), ("cross_0", (0,)), ("cross_1", (0,)))
        for rank in ranks
    ]
    for scope, rank in scopes:
        assert not two.closed
        assert request(two.port, "DELETE", path(two, scope, rank)) == (200, b"")
    deadline = time.monotonic() + 20
    while not refuses(two.port):
        assert time.monotonic() < deadline
    two.close()  # again, which does nothing


def refuses(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # it is closing
        return False
    return False


@pytest.mark.parametrize("text", ["a:1", "a:3", "a:2,b:2", "a:4,b:3", "a:1,b:1,c:1"])
def test_scope_sizes_equal_horovods_own(text: str) -> None:
    hosts = {host: int(ranks) for host, ranks in (slot.split(":") for slot in text.split(","))}
    horovods = RendezvousHTTPServer((HOST, 0), RendezvousHandler, False)
    horovods.init(get_host_assignments(parse_hosts(text), sum(hosts.values())))
    horovods.server_close()
    assert rendezvous._Store(hosts)._sizes == horovods.scope_size


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_another_user_of_this_machine_cannot_meddle_with_the_ranks(tmp_path: Path) -> None:
    rank = (
        "import os, time\nname = os.environ['HOROVOD_RANK']\n"
        f"path = os.path.join({str(tmp_path)!r}, name)\nport = os.environ['HOROVOD_GLOO_RENDEZVOUS_PORT']\n"
        "open(path + '.new', 'w').write(port)\nos.rename(path + '.new', path)\ntime.sleep(60)"
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


# Another user of the machine who knows the port: reads an address, writes a forged one, marks a rank as connected; and
# looks for the key in what the kernel shows of the launcher and the ranks.
NEIGHBOUR = """
import encodings.idna, http.client, os, sys
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
port, *processes = sys.argv[1:]
for method in ("GET", "PUT", "DELETE"):
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=20)
    connection.request(method, "/global/0", b"forged" if method == "PUT" else None)
    print(method, connection.getresponse().status)
shown = b""
for process in processes:
    shown += open(f"/proc/{process}/cmdline", "rb").read()
    try:
        shown += open(f"/proc/{process}/environ", "rb").read()
    except PermissionError:
        pass
print("key", "found" if b"RENDEZVOUS_ADDR" in shown else "unknown")
"""
