"""Keep other web pages away from the demo: a browser sends their requests to this machine, too.

- The Host header must name this machine, or a page could reach the demo under a name of its own (DNS rebinding).
- A request that says which page sent it must come from the demo's own.
- What the demo serves may load and send only from and to the demo (Content-Security-Policy).
"""

from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOSTS = ("127.0.0.1", "localhost")
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",  # the next demo on this port may show another model
}


class Guard:
    """An ASGI application in front of another one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it with 403."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        problem = _problem(Headers(scope=scope))
        answer: Any = PlainTextResponse(problem, 403) if problem else self._app
        await answer(scope, receive, send_guarded)


def _problem(headers: Headers) -> str | None:
    host = headers.get("host", "")
    if _name(f"//{host}") not in HOSTS:
        return f"Host: found {host!r}, expected this machine, {' or '.join(HOSTS)}"
    origin = headers.get("origin")
    if origin is not None and origin != f"http://{host}":
        return f"Origin: found {origin!r}, expected http://{host}"
    site = headers.get("sec-fetch-site", "none")
    if site not in ("same-origin", "none"):
        return f"Sec-Fetch-Site: found {site!r}, expected same-origin"
    return None


def _name(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None
