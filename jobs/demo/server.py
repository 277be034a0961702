"""Run the demo on this machine alone."""

import secrets
import socket
from collections.abc import Callable, Sequence

import uvicorn

from jobs.demo.app import app
from jobs.demo.guard import HOSTS, QUERY
from jobs.demo.shown import Shown
from jobs.errors import InputError

_SECONDS_TO_END = 2  # for requests under way


def listen(port: int) -> socket.socket:
    """Return a socket that listens on loopback. `port`: 0 for a free one. Raises InputError if it is taken."""
    # Named TCP, or asyncio does not switch off Nagle's algorithm, which holds small answers back for 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOSTS[0], port))
        listener.listen(64)
    except OSError as error:
        listener.close()
        raise InputError(
            f"--port: found {port}, which cannot be used ({error.strerror}); fix: choose another"
        ) from error
    return listener


def serve(models: Sequence[Shown], listener: socket.socket, ready: Callable[[str], None]) -> None:
    """Answer until a signal ends the process' work.

    `ready` is called once requests are answered, with the address, whose token nobody else knows.
    """
    host, port = listener.getsockname()
    token = secrets.token_urlsafe()
    config = uvicorn.Config(
        app(models, token),
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=_SECONDS_TO_END,
    )
    server = _Server(config, lambda: ready(f"http://{host}:{port}/?{QUERY}={token}"))
    server.run(sockets=[listener])


class _Server(uvicorn.Server):
    """A server that reports when it is ready, and leaves signals to whoever started it."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and report it."""
        await super().startup(sockets)
        if not self.should_exit:
            self._ready()
