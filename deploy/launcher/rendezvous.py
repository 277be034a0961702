"""The rendezvous of a job's ranks: a small HTTP store through which Horovod's ranks learn each other's addresses.

Horovod's own server answers everyone who reaches it and accepts any body. This one:
- answers only the addresses of the job's nodes, and only requests with a key made for this attempt;
- stores what Gloo stores, and nothing else;
- closes once all ranks are connected.

Horovod's client has no field for a key. But it makes its URL by joining http://ADDRESS:PORT/SCOPE/NAME (horovod 0.28.1,
common/gloo/http_store.h), so the key can end the address: http://127.0.0.1:20000/KEY:20000/global/0. Nothing is
encrypted: whoever reads the packets between the nodes reads the key. The ranks' own connections, which Gloo makes, have
no key at all.
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
from typing import Any, BinaryIO

_NAME_BYTES = 256  # of a host name, which each rank stores
_ADDRESS_BYTES = 192  # of a rank's address for one other rank: Gloo's transport::Address::kMaxByteSize
# Horovod connects its ranks twice: first as all processes, then as a process set of all, in scopes with this suffix.
_PROCESS_SET = re.compile(r"(.*?)(_process_set_hash_[0-9a-f]{1,16})?")
_CONNECTIONS = 2
_RANK = re.compile(r"(rank_)?(0|[1-9][0-9]{0,8})")
_ADMISSION_SECONDS = 10.0  # the launcher may take this long to learn a node's address
_REQUEST_SECONDS = 3.0
_HEAD_BYTES = 8192  # of a request's line and headers; a rank's has less than 300
_MAX_OPEN = 256  # connections at a time; a rank's request takes milliseconds


def environment(address: str, port: int, key: str, interface: str) -> dict[str, str]:
    """Return how a rank finds the others: the rendezvous and its key, and the network interface to use."""
    return {
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": f"{address}:{port}/{key}",
        "HOROVOD_GLOO_RENDEZVOUS_PORT": str(port),
        "HOROVOD_GLOO_IFACE": interface,
    }


def nccl_defaults(interface: str) -> dict[str, str]:
    """Return what NCCL is told of the network, unless the site or the user has told it something else."""
    return {"NCCL_SOCKET_IFNAME": interface}


class Rendezvous:
    """A rendezvous server in threads of this process, which listens until all ranks are connected or it is closed.

    `ranks_per_host`: in the order of the ranks. `address`: the only one it listens on. `ports`: it takes the first free
    one; 0 is any. It answers no address before `admit` names it. Raises OSError if no port is free.
    """

    def __init__(self, ranks_per_host: Mapping[str, int], address: str, ports: Iterable[int]) -> None:
        self.address, self.key = address, secrets.token_hex(16)
        self._server = _listen(address, ports, _Store(ranks_per_host))
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
        """Return whether it has stopped listening."""
        return self._server.closed.is_set()


class _Store:
    """What the ranks store, each value once, by scope and name. It holds Gloo's names, sizes and counts, no others."""

    def __init__(self, ranks_per_host: Mapping[str, int]) -> None:
        largest = max(ranks_per_host.values())
        self.ranks = sum(ranks_per_host.values())
        self._sizes = {"global": self.ranks} | {f"local_{host}": ranks for host, ranks in ranks_per_host.items()}
        self._sizes |= {f"cross_{n}": sum(ranks > n for ranks in ranks_per_host.values()) for n in range(largest)}
        self._process_set = ""  # the suffix of the process set of all, once a rank has named it
        self._values: dict[tuple[str, str], bytes] = {}
        self._connected: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def max_bytes(self, scope: str, name: str) -> int | None:
        """Return the maximum size of a value; None if this job has no such scope or name."""
        match = _PROCESS_SET.fullmatch(scope)
        size = self._sizes.get(match[1], 0) if match else 0
        rank = _RANK.fullmatch(name)
        if match is None or rank is None or int(rank[2]) >= size:
            return None
        with self._lock:
            self._process_set = self._process_set or match[2] or ""
            if match[2] and match[2] != self._process_set:
                return None
        return _NAME_BYTES if rank[1] else _ADDRESS_BYTES * (size - 1)

    def get(self, scope: str, name: str) -> bytes | None:
        with self._lock:
            return self._values.get((scope, name))

    def put(self, scope: str, name: str, value: bytes) -> bool:
        """Store a value; return False if another value is stored already. A client may repeat a request."""
        with self._lock:
            return self._values.setdefault((scope, name), value) == value

    def mark_connected(self, scope: str, name: str) -> bool:
        """Record that a rank is connected to all others of a scope; return whether all ranks are, in all scopes."""
        with self._lock:
            self._connected.add((scope, name))
            return len(self._connected) == 3 * _CONNECTIONS * self.ranks  # global, local, cross


class _Server(socketserver.ThreadingTCPServer):
    """The listening socket, its threads, and the addresses it answers."""

    daemon_threads, block_on_close = True, False
    request_queue_size = 1024  # all ranks may connect at the same moment

    def __init__(self, address: tuple[str, int], store: _Store) -> None:
        super().__init__(address, _Handler)
        self.store, self.prefix = store, ""
        self.closed = threading.Event()
        self._admitted: dict[int, str] = {}
        self._admission = threading.Condition()
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
        with self._admission:
            self._admitted[rank] = address
            self._admission.notify_all()

    def admits(self, request: socket.socket, address: str) -> bool:
        """Return whether a rank connects from this address; wait for ranks whose addresses are not known yet.

        A request that was ended meanwhile does not wait on.
        """

        def is_known() -> bool:
            is_open = request in self._open
            return not is_open or address in self._admitted.values() or len(self._admitted) >= self.store.ranks

        with self._admission:
            self._admission.wait_for(is_known, _ADMISSION_SECONDS)
            return address in self._admitted.values()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread. With too many connections open, end the oldest: a rank's takes only milliseconds."""
        with self._open_lock:
            self._open[request] = None
            oldest = next(iter(self._open)) if len(self._open) > max(_MAX_OPEN, 4 * self.store.ranks) else None
            if oldest is not None:
                del self._open[oldest]
        if oldest is not None:
            _shut(oldest)
            with self._admission:
                self._admission.notify_all()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._open_lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing for a peer that disconnected or sent no HTTP."""


class _Request:
    """The bytes of one request, of which few are read as lines: http.server would keep 6 MB of headers.

    With 240 connections, another user of a node made the launcher grow to 3.4 GB.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._left = stream, _HEAD_BYTES
        self.read, self.close = stream.read, stream.close

    def readline(self, limit: int) -> bytes:
        """Return the next line; no more bytes, as at the end of the stream, after `_HEAD_BYTES`."""
        line = self._stream.readline(min(limit, self._left))
        self._left -= len(line)
        return line


class _Handler(BaseHTTPRequestHandler):
    """One request: GET, PUT or DELETE of KEY:PORT/SCOPE/NAME; all other methods are refused."""

    server: _Server
    timeout = _REQUEST_SECONDS
    server_version, sys_version = "rendezvous", ""

    def setup(self) -> None:
        super().setup()
        self.rfile: Any = _Request(self.rfile)

    def handle(self) -> None:
        if self.server.admits(self.request, str(self.client_address[0])):
            super().handle()

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        entry = self._entry()
        if entry:
            value = self.server.store.get(*entry[:2])
            self._respond(HTTPStatus.OK if value is not None else HTTPStatus.NOT_FOUND, value or b"")

    def do_PUT(self) -> None:
        entry = self._entry()
        if not entry:
            return
        scope, name, max_bytes = entry
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal() and len(length) < 10):
            self._respond(HTTPStatus.LENGTH_REQUIRED)
        elif int(length) > max_bytes:
            self._respond(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        else:
            value = self.rfile.read(int(length))
            is_whole = len(value) == int(length)
            is_stored = is_whole and self.server.store.put(scope, name, value)
            self._respond(HTTPStatus.OK if is_stored else HTTPStatus.CONFLICT)

    def do_DELETE(self) -> None:
        entry = self._entry()
        if entry:
            all_connected = self.server.store.mark_connected(*entry[:2])
            self._respond(HTTPStatus.OK)
            if all_connected:
                self.server.close()

    def _entry(self) -> tuple[str, str, int] | None:
        """Return scope, name and maximum size of the requested value; without the key or such an entry, respond 403."""
        prefix = self.server.prefix
        has_key = hmac.compare_digest(self.path[: len(prefix)].encode(errors="replace"), prefix.encode())
        scope, _, name = self.path[len(prefix) :].partition("/") if has_key else ("", "", "")
        max_bytes = self.server.store.max_bytes(scope, name)
        if max_bytes is None:
            self._respond(HTTPStatus.FORBIDDEN)
            return None
        return scope, name, max_bytes

    def _respond(self, status: HTTPStatus, body: bytes = b"") -> None:
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
