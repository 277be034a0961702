"""Read the body of a request within limits of size and time."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

from starlette.requests import ClientDisconnect, Request

from deploy.serving.limits import Limits
from deploy.serving.refusal import RefusalError


async def read_body(request: Request, limits: Limits) -> bytes:
    """Return the body of a request; raise a RefusalError: 413 if it is too long, 408 if it arrives too slowly."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise RefusalError(415, "Content-Encoding: found a compressed body, expected a plain one")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > limits.body:
        raise _too_long(limits)
    body = bytearray()
    try:
        async with asyncio.timeout(limits.seconds):
            async for block in request.stream():
                body += block
                if len(body) > limits.body:
                    raise _too_long(limits)
    except TimeoutError as error:
        raise RefusalError(408, f"body: found no end after {limits.seconds:g} s, expected one (--timeout)") from error
    except ClientDisconnect as error:
        raise RefusalError(400, "body: found the end of the connection, expected the rest") from error
    return bytes(body)


def _too_long(limits: Limits) -> RefusalError:
    return RefusalError(413, f"body: found too many bytes, expected at most {limits.body:,} (--max-body)")


class Reading:
    """The `receive` of an ASGI request that knows whether the body has been read to its end."""

    def __init__(self, headers: dict[bytes, bytes], receive: Any) -> None:
        self._receive = receive
        self._awaits_permission = headers.get(b"expect", b"").lower() == b"100-continue"
        self.is_complete = headers.get(b"content-length", b"0") == b"0" and b"transfer-encoding" not in headers

    async def __call__(self) -> MutableMapping[str, Any]:
        """Return the next message."""
        message: MutableMapping[str, Any] = await self._receive()
        self._awaits_permission = False
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            self.is_complete = True
        return message

    async def discard(self, most: int, seconds: float) -> None:
        """Read the rest, if it is short: a client that is still sending may miss the answer when the connection ends.

        `most`: bytes. A client that waits for "100 Continue" has not sent any.
        """
        if self._awaits_permission:
            return
        try:
            async with asyncio.timeout(seconds):
                while not self.is_complete and most > 0:
                    most -= len((await self()).get("body", b""))
        except TimeoutError:
            return
