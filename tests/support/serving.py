"""An `idxtrain serve` process, and a client for it that shows every connection that fails."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

_LISTENING = re.compile(r"listening on http://([\d.]+):(\d+)")


class Serving:
    """The process. A context manager: it starts on a free port, and is killed at the end if it still runs."""

    def __init__(self, folder: Path, *options: object, environment: Mapping[str, str] | None = None) -> None:
        program = str(Path(sys.executable).with_name("idxtrain"))
        self._command = [program, "serve", *map(str, options), "--port", "0"]
        self._environment = dict(os.environ if environment is None else environment)
        self.folder, self._log = folder, folder / "serve.log"
        self.port = 0

    def __enter__(self) -> "Serving":
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(self._command, env=self._environment, stdout=log, stderr=log)
        while not (line := _LISTENING.search(self.log)):
            assert self.process.poll() is None, self.log
            time.sleep(0.02)
        self.port = int(line[2])
        return self

    def __exit__(self, *reason: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def wait_for(self, text: str, seconds: float = 120) -> None:
        """Wait until the log has this text."""
        deadline = time.monotonic() + seconds
        while text not in self.log:
            assert time.monotonic() < deadline, self.log
            assert self.process.poll() is None, self.log
            time.sleep(0.02)

    def ready(self) -> "Serving":
        self.wait_for("serving ")
        return self

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal; return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def resident_bytes(self) -> int:
        return int(psutil.Process(self.process.pid).memory_info().rss)


class Connection:
    """One HTTP/1.1 connection that sends prepared bytes: a client's own cost would hide the server's."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writer: asyncio.StreamWriter | None = None

    async def send(self, request: bytes) -> tuple[int, bytes]:
        """Return status and body of the answer to a request. Reconnects only if the server announced the end."""
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if line)
        body = await self._reader.readexactly(int(headers["content-length"]))
        if headers.get("connection") == "close":
            self.close()
        return int(lines[0].split()[1]), body

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def exchange(port: int, request: bytes, seconds: float = 5) -> bytes:
    """Send any bytes over a new connection; return the first answer, or what came within the time."""
    received = b""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        with suppress(OSError):  # the server may end it in the middle
            connection.sendall(request)
        while block := connection.recv(1 << 16):
            received += block
            head, end, body = received.partition(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            if end and (request.startswith(b"HEAD") or (length and len(body) >= int(length[1]))):
                break
    return received


def post(body: bytes, kind: str = "application/octet-stream", query: str = "", headers: Sequence[str] = ()) -> bytes:
    """Return the bytes of a request for predictions."""
    lines = [f"POST /predict{query} HTTP/1.1", "Host: test", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


class Answers:
    """What came back: seconds, status and JSON of each request."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.statuses: list[int] = []
        self.errors: list[str] = []
        # Parsed at the end: while requests are timed, the search for garbage among a growing number of objects would
        # stop the client for up to 0.1 s at a time.
        self.received: list[bytes] = []

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(body) for body in self.received]

    def percentile(self, share: float) -> float:
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def _timed(connection: Connection, request: bytes, answers: Answers, begin: float) -> None:
    try:
        status, body = await connection.send(request)
    except (OSError, EOFError) as error:
        answers.errors.append(repr(error))
        connection.close()
        return
    answers.seconds.append(time.perf_counter() - begin)
    answers.statuses.append(status)
    answers.received.append(body)


async def as_fast_as_possible(port: int, requests: Sequence[bytes], clients: int, seconds: float) -> Answers:
    """Let each client send a request as soon as it has the answer to the last one."""
    answers, end = Answers(), time.perf_counter() + seconds

    async def client(number: int) -> None:
        connection, turn = Connection(port), number
        while (begin := time.perf_counter()) < end:
            await _timed(connection, requests[turn % len(requests)], answers, begin)
            turn += clients
        connection.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    return answers


async def at_a_rate(port: int, requests: Sequence[bytes], rate: float, seconds: float) -> Answers:
    """Send requests at fixed times, whether or not earlier ones are answered; seconds count from these times."""
    answers = Answers()
    idle: list[Connection] = []
    tasks: set[asyncio.Task[None]] = set()
    start = time.perf_counter()

    async def one(number: int) -> None:
        connection = idle.pop() if idle else Connection(port)
        await _timed(connection, requests[number % len(requests)], answers, start + number / rate)
        idle.append(connection)

    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, start + number / rate - time.perf_counter()))
        task = asyncio.create_task(one(number))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    while tasks:
        await asyncio.wait(tasks)
    for connection in idle:
        connection.close()
    return answers
