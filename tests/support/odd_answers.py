"""Answers that no web server should give, and commands that end oddly, drawn by a seeded generator."""

import random
import shlex
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

SECRET = "T0KEN-9f3a77c1"  # noqa: S105 (a made-up one)
_PATIENCE = 20.0  # seconds that an answer may take before the server gives up

Answer = Callable[[socket.socket, random.Random, str], None]


def _bytes(connection: socket.socket, draw: random.Random, elsewhere: str) -> None:
    connection.sendall(draw.randbytes(draw.choice((0, 1, 17, 5000))))


def _protocol(connection: socket.socket, draw: random.Random, elsewhere: str) -> None:
    banners = (
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"220 mail ready\r\n",
        b"\x15\x03\x01\x00\x02\x02\x28",
        b"-ERR\r\n",
        b"RFB 3.8\n",
    )
    connection.sendall(draw.choice(banners) + SECRET.encode())


def _status(connection: socket.socket, draw: random.Random, elsewhere: str) -> None:
    lines = (
        "HTTP/9.9 200 OK",
        "HTTP/1.1 999 x",
        "HTTP/1.1 -1 x",
        "HTTP/1.1 200200",
        "HTTP/1.1  ",
        "HTTP/1.1 204",
        "200 OK",
    )
    fields = (
        "",
        f"X: {SECRET}\r\n",
        "no colon\r\n",
        ": empty\r\n",
        "Content-Length: -5\r\n",
        "Transfer-Encoding: x\r\n",
    )
    connection.sendall(f"{draw.choice(lines)} {SECRET}\r\n{draw.choice(fields)}\r\n{SECRET}".encode())


def _refusal(connection: socket.socket, draw: random.Random, elsewhere: str) -> None:
    code = draw.choice((201, 206, 304, 400, 401, 403, 404, 407, 418, 429, 500, 503))
    fields = 'WWW-Authenticate: Basic realm="x"\r\nRetry-After: 99999\r\n'
    connection.sendall(f"HTTP/1.1 {code} {SECRET}\r\n{fields}Content-Length: 99\r\n\r\n{SECRET}".encode())


def _redirect(connection: socket.socket, draw: random.Random, elsewhere: str) -> None:
    targets = (
        elsewhere,
        "/again",
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "https://[bad",
        f"//{SECRET}",
        "\xff\xfe",
        "",
    )
    code = draw.choice((300, 301, 302, 303, 307, 308))
    text = f"HTTP/1.1 {code} Moved\r\nLocation: {draw.choice(targets)}\r\nContent-Length: 0\r\n\r\n"
    connection.sendall(text.encode("latin-1"))


def _silence(connection: socket.socket, draw: random.Random, elsewhere: str) -> None:
    connection.settimeout(_PATIENCE)
    while connection.recv(65536):
        pass


def _drops(connection: socket.socket, draw: random.Random, elsewhere: str) -> None:
    begin, piece = (
        draw.choice((b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nX: ")),
        draw.choice((b"H", b"a", b"1")),
    )
    connection.sendall(begin)
    for _ in range(int(_PATIENCE / 0.05)):
        connection.sendall(piece)
        time.sleep(0.05)


def _flood(connection: socket.socket, draw: random.Random, elsewhere: str) -> None:
    kinds = (
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", b"x" * 65536),
        (b"HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b"x" * 65536 + b"\r\n"),
        (b"HTTP/1.1 200 OK\r\n", b"X-Header: " + b"y" * 60000 + b"\r\n"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"z" * 65536),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    )
    head, body = draw.choice(kinds)
    connection.sendall(head)
    for _ in range(2000):
        connection.sendall(body)


def _reset(connection: socket.socket, draw: random.Random, elsewhere: str) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


ANSWERS: tuple[Answer, ...] = (
    _bytes, _protocol, _status, _refusal, _redirect, _redirect, _silence, _drops, _flood, _reset,
)  # fmt: skip


class OddServer:
    """`answer`: the kind of the next answer, drawn by `draw`. `elsewhere`: the port of redirects; `visits`: of it."""

    def __init__(self) -> None:
        self.answer: Answer = _bytes
        self.draw = random.Random(0)  # noqa: S311
        self.visits = 0
        self.port = self.elsewhere = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hooks/{SECRET}?key={SECRET}"

    def serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(_PATIENCE)
            connection.recv(65536)
            self.answer(connection, self.draw, f"http://127.0.0.1:{self.elsewhere}/{SECRET}")

    def count(self, connection: socket.socket) -> None:
        self.visits += 1
        connection.close()


@contextmanager
def odd_server() -> Iterator[OddServer]:
    server = OddServer()
    with _listener(server.serve) as server.port, _listener(server.count) as server.elsewhere:
        yield server


@contextmanager
def _listener(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    threading.Thread(target=serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def odd_command(draw: random.Random) -> str:
    """Return a command for --notify that succeeds or fails oddly; some print the secret."""
    programs = (
        "import os; os.write(1, b'\\xff\\xfe'); os.write(2, b'\\xff\\x00')",
        "import os; os.write(2, os.environb[b'IDXTRAIN_WEBHOOK']); os._exit(7)",
        f"import sys; sys.exit('{SECRET}')",
        f"import os; os.kill(os.getpid(), {draw.choice((1, 6, 9, 11, 15))})",
        f"import os; os._exit({draw.randrange(1, 256)})",
        "import os; os.close(0); os._exit(0)",
        "import time; time.sleep(60)",
        "import os, time; os.fork() or time.sleep(60)",
        "import os\nfor _ in range(500): os.write(1, b'x' * 65536); os.write(2, b'\\xff' * 65536)",
        "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)",
    )
    others = ("no-such-program", "/", "/dev/null", "/etc/passwd", "mail 'me", "true", "false", "cat", "printf '\\377'")
    if draw.random() < 0.3:
        return draw.choice(others)
    return shlex.join([sys.executable, "-c", draw.choice(programs)])
