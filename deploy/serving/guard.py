"""What surrounds every request: the token, the number of requests, faults, metrics."""

import logging
import time
from collections.abc import MutableMapping
from typing import Any

import h11
from starlette.types import ASGIApp, Receive, Scope, Send

from deploy.serving.body import Reading
from deploy.serving.limits import Limits
from deploy.serving.metrics import Metrics
from deploy.serving.refusal import RefusalError, busy, failed
from deploy.serving.token import Bearer
from jobs.errors import one_line, printable

OPEN_PATHS = frozenset({"/health", "/ready"})  # for probes, which have no token
PATHS = frozenset({*OPEN_PATHS, "/predict", "/metrics", "/openapi.json"})
_DISCARD_SECONDS = 1.0

log = logging.getLogger("idxtrain")


class _ClientGoneError(Exception):
    """An answer cannot be sent: the client ended the connection, or broke the protocol."""


class Guard:
    """The outermost ASGI application. `ends_connections`: set while the server stops."""

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics, bearer: Bearer | None) -> None:
        self._app, self._limits, self._metrics, self._bearer = app, limits, metrics, bearer
        self._active = 0
        self.ends_connections = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens. No fault leaves this method, and no traceback the server."""
        begin = time.perf_counter()
        headers = dict(scope["headers"])
        reading = Reading(headers, receive)
        status = 0

        async def answer(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if not reading.is_complete:
                    await reading.discard(2 * self._limits.body, _DISCARD_SECONDS)
                if self.ends_connections or not reading.is_complete:
                    message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            try:
                await send(message)
            except (h11.LocalProtocolError, OSError) as error:
                raise _ClientGoneError from error

        try:
            await self._dispatch(scope, headers, reading, answer)
        except _ClientGoneError:
            pass
        except Exception as error:
            log.error(
                "%s %s: %s: %s", scope["method"], printable(scope["path"]), type(error).__name__, one_line(error)[:300]
            )
            if status == 0:
                await _fail(scope, reading, answer)
        finally:
            path = scope["path"] if scope["path"] in PATHS else "other"
            self._metrics.request(path, status, time.perf_counter() - begin)

    async def _dispatch(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path not in OPEN_PATHS and self._bearer and not self._bearer.admits(headers.get(b"authorization", b"")):
            wanted = "header Authorization: found no valid token, expected `Bearer TOKEN`"
            await RefusalError(401, wanted, {"WWW-Authenticate": "Bearer"}).response()(scope, receive, send)
        elif path != "/predict":
            await self._app(scope, receive, send)
        elif self._active >= self._limits.requests:
            message = f"found {self._active} requests, expected at most {self._limits.requests} at the same time"
            await busy(message).response()(scope, receive, send)
        else:
            self._active += 1
            try:
                await self._app(scope, receive, send)
            finally:
                self._active -= 1


async def _fail(scope: Scope, receive: Receive, send: Send) -> None:
    try:
        await failed().response()(scope, receive, send)
    except Exception as error:  # the connection is unusable
        log.error("the answer could not be sent: %s", one_line(error)[:300])
