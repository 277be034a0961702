"""Run the server: listen, load the model, follow it, and drain when asked to stop."""

import contextlib
import gc
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn

from deploy.serving.app import application
from deploy.serving.candidate import Candidate
from deploy.serving.guard import Guard
from deploy.serving.limits import Limits
from deploy.serving.protocol import protocol
from deploy.serving.served import ServedModel
from deploy.serving.service import Service
from deploy.serving.sources import START_SECONDS, Source
from deploy.serving.token import Bearer
from jobs import stop_signals
from jobs.errors import InputError, ResumableError, one_line
from jobs.tensorflow_import import import_tensorflow

_KEEP_ALIVE_SECONDS = 30  # longer than the pause of most clients and probes between two requests
_BACKLOG = 128

log = logging.getLogger("idxtrain")


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where to listen, and who may send. `port`: 0 for any free one. `token`: None for everybody."""

    host: str
    port: int
    token: str | None


def run(source: Source, address: Address, limits: Limits, drain_seconds: float) -> None:
    """Serve until a signal asks to stop, then answer what has arrived, and return.

    From the signal on, /ready answers 503, and for `drain_seconds` new requests are still accepted, until those who
    send them have noticed. Raises InputError if the address is taken or the first model cannot be loaded, and
    ResumableError at a second signal.
    """
    with listener_at(address) as listener:
        service = Service(limits)
        server = http_server(service, address, limits, drain_seconds)
        loader = _Loader(service, source, server.stop)
        log.info("listening on %s", _url(listener))
        loader.start()
        try:
            server.run([listener])
        finally:
            loader.close()
        service.stop()
        if loader.error:
            raise loader.error
        if server.is_forced:
            raise ResumableError("stopped without answering the requests that waited")
        log.info("stopped")


def listener_at(address: Address) -> socket.socket:
    """Return the socket that listens at an address; raise InputError if it is taken or not this machine's."""
    where = f"--host {address.host} --port {address.port}"
    try:
        family, _, _, _, target = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(target[:2], family=family, backlog=_BACKLOG)
        # Connections inherit it. asyncio sets it only where a socket was made for TCP by number. Without it an answer,
        # which uvicorn writes in two pieces, waits 40 ms for the client's acknowledgment.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except (OSError, UnicodeError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise InputError(f"{where}: cannot listen ({reason}); fix: choose another --port") from error


def _freeze() -> None:
    """Collect the replaced model, which is in cycles, and take all else out of later searches for garbage.

    TensorFlow's objects and the model's stay. To search them takes 0.2 s, in which no request is answered: now once a
    model. If the model's alone were searched, it would be 16 ms again and again, about every 1,500 requests.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def http_server(service: Service, address: Address, limits: Limits, drain_seconds: float) -> "DrainingServer":
    """Return the HTTP server of a service, not started."""
    bearer = Bearer(address.token) if address.token else None
    guard = Guard(application(service), limits, service.metrics, bearer)
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL + 1)  # tracebacks: `Guard` logs one line
    config = uvicorn.Config(
        guard,
        http=protocol(limits, lambda status: service.metrics.request("other", status, 0.0)),
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(3 * limits.seconds) + 1,
        backlog=_BACKLOG,
    )
    return DrainingServer(config, service, guard, drain_seconds)


class DrainingServer(uvicorn.Server):
    """Uvicorn's server, with a pause between the request to stop and the end of listening."""

    def __init__(self, config: uvicorn.Config, service: Service, guard: Guard, drain_seconds: float) -> None:
        super().__init__(config)
        self._service, self._guard, self._drain_seconds = service, guard, drain_seconds
        self._requests = stop_signals.Requests()
        self._stops_at: float | None = None
        self.is_forced = False

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle every signal that asks to stop, while the server runs."""
        before = stop_signals.handle(self._signal)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _signal(self, number: int, frame: FrameType | None) -> None:
        if self._requests.note():
            if self._requests.count == 1:
                self._stops_at = time.monotonic() + self._drain_seconds
            else:
                self.is_forced = self.force_exit = self.should_exit = True

    def stop(self) -> None:
        """Stop at once: there is nothing to serve."""
        self._stops_at = time.monotonic()

    async def on_tick(self, counter: int) -> bool:
        """Return whether to end; uvicorn calls this ten times a second."""
        if self._stops_at is not None:
            if not self._service.is_stopping:
                self._service.is_stopping = self._guard.ends_connections = True
                if self._requests.count:
                    log.info("draining: requests that arrive in the next %g s are answered", self._drain_seconds)
            self.should_exit = self.should_exit or time.monotonic() >= self._stops_at
        return await super().on_tick(counter)


class _Loader:
    """The thread that loads models beside the one that is served."""

    def __init__(self, service: Service, source: Source, give_up: Callable[[], None]) -> None:
        self._service, self._source, self._give_up = service, source, give_up
        self._thread = threading.Thread(target=self._load, name="loader", daemon=True)
        self.error: BaseException | None = None

    def start(self) -> None:
        """Begin to load."""
        self._thread.start()

    def close(self) -> None:
        """End the source, and wait for the thread."""
        self._source.close()
        self._thread.join(10)

    def _load(self) -> None:
        try:
            for item in self._source.candidates():
                if isinstance(item, Candidate):
                    self._service.metrics.registry_answers(True)
                    if not self._replace(item):
                        self._source.refused()
                else:
                    self._report(item)
        except BaseException as error:
            self.error = error
            self._give_up()

    def _replace(self, candidate: Candidate) -> bool:
        """Serve another model; return False if the old one is still served, as the new one cannot be."""
        service, title = self._service, candidate.file.title
        old = service.model
        if old is None:
            import_tensorflow(Path(os.devnull))
        elif (old.version, old.file.sha256) == (candidate.version, candidate.file.sha256):
            return True
        begin = time.monotonic()
        try:
            model = ServedModel(candidate, service.limits.batch)
        except Exception as error:
            if old is None:
                raise
            service.metrics.failure()
            reason = one_line(error)[:500]
            log.warning("%s cannot be served: %s; still serving %s; trying again", title, reason, old.file.title)
            return False
        service.serve(model)
        log.info(
            "serving %s, SHA-256 %s…, loaded in %.1f s", title, candidate.file.sha256[:12], time.monotonic() - begin
        )
        del old, model
        _freeze()
        return True

    def _report(self, trouble: str) -> None:
        self._service.metrics.registry_answers(not trouble)
        model = self._service.model
        if trouble and model:
            log.warning("%s; still serving %s", trouble, model.file.title)
        elif trouble:
            log.warning("%s; trying again, for %g s in all", trouble, START_SECONDS)
        elif not trouble:
            log.info("the model registry answers again")
