"""The rendezvous of a job's ranks: a small HTTP store in which Horovod's ranks leave their addresses for each other.

Horovod's own server answers whoever reaches it, and takes any body from anybody. This one answers only the addresses of
the job's nodes, and only requests with a key made for this start of the ranks. It stores what Gloo stores, and nothing
else, and is closed once every rank is connected.

Horovod's client has no field for a key. But it makes its URL by joining http://ADDRESS:PORT/SCOPE/NAME (horovod 0.28.1,
common/gloo/http_store.h), so the key can stand at the end of the address: http://127.0.0.1:20000/KEY:20000/global/0.
Nothing is encrypted: who can read the packets between the nodes can read the key. The ranks' own connections, which
Gloo makes, have no key at all.
"""

import hmac
import re
import secrets
import socket
import socketserver
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any

_NAME_BYTES = 256  # of a host name, which each rank stores
_ADDRESS_BYTES = 192  # of a rank's address for one other rank: Gloo's transport::Address::kMaxByteSize
# Horovod connects its ranks twice: as all processes, then as its set of all processes, in scopes with this ending.
_SET = re.compile(r"(.*?)(_process_set_hash_[0-9a-f]{1,16})?")
_CONNECTIONS = 2
_RANK = re.compile(r"(rank_)?(0|[1-9][0-9]{0,8})")
_ADMISSION_SECONDS = 10.0  # so long may it take until the launcher hears of a node's address
_REQUEST_SECONDS = 3.0
_OPEN = 256  # connections at a time; a request of a rank takes milliseconds


def environment(address: str, port: int, key: str, interface: str) -> dict[str, str]:
    """Return how a rank finds the others: the rendezvous, with its key, and the network it talks over."""
    return {
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": f"{address}:{port}/{key}",
        "HOROVOD_GLOO_RENDEZVOUS_PORT": str(port),
        "HOROVOD_GLOO_IFACE": interface,
        "NCCL_SOCKET_IFNAME": interface,
    }


class Rendezvous:
    """A rendezvous that listens, in threads of this process, until all ranks are connected or it is closed.

    `hosts`: how many ranks each has, in the order of the ranks. `address`: it listens on that one alone. `ports`: to
    try, the first free one is taken; 0: any. It answers nobody before `admit` says whom. Raises OSError where no port
    is free.
    """

    def __init__(self, hosts: Mapping[str, int], address: str, ports: Iterable[int]) -> None:
        self.address, self.key = address, secrets.token_hex(16)
        self._server = _listen(address, ports, _Store(hosts))
        self.port = int(self._server.server_address[1])
        self._server.prefix = f"/{self.key}:{self.port}/"
        threading.Thread(target=self._server.serve, name="rendezvous", daemon=True).start()

    def admit(self, rank: int, address: str) -> None:
        """Answer the address from which this rank connects."""
        self._server.admit(rank, address)

    def close(self) -> None:
        """Stop listening. Closing again does nothing."""
        self._server.close()

    @property
    def closed(self) -> bool:
        """Tell whether it does not listen any more."""
        return self._server.closed.is_set()


class _Store:
    """What the ranks store: by scope and name, each once. Names, sizes and number are those of Gloo, no others."""

    def __init__(self, hosts: Mapping[str, int]) -> None:
        most = max(hosts.values())
        self.ranks = sum(hosts.values())
        self._sizes = {"global": self.ranks} | {f"local_{host}": ranks for host, ranks in hosts.items()}
        self._sizes |= {f"cross_{n}": sum(ranks > n for ranks in hosts.values()) for n in range(most)}
        self._set = ""  # the ending of the scopes of Horovod's set of all processes, once a rank has named it
        self._values: dict[tuple[str, str], bytes] = {}
        self._finished: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def longest(self, scope: str, name: str) -> int | None:
        """Return how many bytes a value may have; None for what is no scope or name of this job's."""
        match = _SET.fullmatch(scope)
        size = self._sizes.get(match[1], 0) if match else 0
        rank = _RANK.fullmatch(name)
        if match is None or rank is None or int(rank[2]) >= size:
            return None
        with self._lock:
            self._set = self._set or match[2] or ""
            if match[2] and match[2] != self._set:
                return None
        return _NAME_BYTES if rank[1] else _ADDRESS_BYTES * (size - 1)

    def get(self, scope: str, name: str) -> bytes | None:
        with self._lock:
            return self._values.get((scope, name))

    def put(self, scope: str, name: str, value: bytes) -> bool:
        """Store a value; return False where another one is there. A client may send the same twice."""
        with self._lock:
            return self._values.setdefault((scope, name), value) == value

    def finish(self, scope: str, name: str) -> bool:
        """Note that a rank is connected with all of a scope; return whether all ranks are, in all scopes."""
        with self._lock:
            self._finished.add((scope, name))
            return len(self._finished) == 3 * _CONNECTIONS * self.ranks  # global, local, cross


class _Server(socketserver.ThreadingTCPServer):
    """The listening socket, its threads, and whom it answers."""

    daemon_threads, block_on_close = True, False
    request_queue_size = 1024  # all ranks may come at the same moment

    def __init__(self, address: tuple[str, int], store: _Store) -> None:
        super().__init__(address, _Handler)
        self.store, self.prefix = store, ""
        self.closed = threading.Event()
        self._admitted: dict[int, str] = {}
        self._news = threading.Condition()
        self._open: dict[socket.socket, None] = {}
        self._open_lock = threading.Lock()

    def serve(self) -> None:
        with self:
            self.serve_forever(poll_interval=0.1)

    def close(self) -> None:
        if not self.closed.is_set():
            self.closed.set()
            self.shutdown()
            self.server_close()

    def admit(self, rank: int, address: str) -> None:
        with self._news:
            self._admitted[rank] = address
            self._news.notify_all()

    def admits(self, address: str) -> bool:
        """Tell whether a rank connects from this address; wait a while for ranks of which that is not known yet."""
        with self._news:
            self._news.wait_for(
                lambda: address in self._admitted.values() or len(self._admitted) >= self.store.ranks,
                _ADMISSION_SECONDS,
            )
            return address in self._admitted.values()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread. Of too many connections the oldest ends: a rank's is over in milliseconds."""
        with self._open_lock:
            self._open[request] = None
            oldest = next(iter(self._open)) if len(self._open) > max(_OPEN, 4 * self.store.ranks) else None
        if oldest is not None:
            _shut(oldest)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._open_lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a peer that went away or sent no HTTP."""


class _Handler(BaseHTTPRequestHandler):
    """One request: GET, PUT or DELETE of KEY:PORT/SCOPE/NAME; all other methods are refused."""

    server: _Server
    timeout = _REQUEST_SECONDS
    server_version, sys_version = "rendezvous", ""

    def handle(self) -> None:
        if self.server.admits(str(self.client_address[0])):
            super().handle()

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        place = self._place()
        if place:
            value = self.server.store.get(*place[:2])
            self._say(HTTPStatus.OK if value is not None else HTTPStatus.NOT_FOUND, value or b"")

    def do_PUT(self) -> None:
        place = self._place()
        if not place:
            return
        scope, name, longest = place
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal() and len(length) < 10):
            self._say(HTTPStatus.LENGTH_REQUIRED)
        elif int(length) > longest:
            self._say(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        else:
            value = self.rfile.read(int(length))
            whole = len(value) == int(length)
            self._say(HTTPStatus.OK if whole and self.server.store.put(scope, name, value) else HTTPStatus.CONFLICT)

    def do_DELETE(self) -> None:
        place = self._place()
        if place:
            all_are = self.server.store.finish(*place[:2])
            self._say(HTTPStatus.OK)
            if all_are:
                self.server.close()

    def _place(self) -> tuple[str, str, int] | None:
        """Return the scope, the name, and how long its value may be; refuse, and return None, without key or place."""
        prefix = self.server.prefix
        known = hmac.compare_digest(self.path[: len(prefix)].encode(errors="replace"), prefix.encode())
        scope, _, name = self.path[len(prefix) :].partition("/") if known else ("", "", "")
        longest = self.server.store.longest(scope, name)
        if longest is None:
            self._say(HTTPStatus.FORBIDDEN)
            return None
        return scope, name, longest

    def _say(self, status: HTTPStatus, body: bytes = b"") -> None:
        self.close_connection = True
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _listen(address: str, ports: Iterable[int], store: _Store) -> _Server:
    fault = OSError("no port to try")
    for port in ports:
        try:
            return _Server((address, port), store)
        except OSError as error:
            fault = error
    raise fault


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):  # it has ended by itself
        connection.shutdown(socket.SHUT_RDWR)
