"""Keep others away from the demo: other users, and other web pages, whose requests a browser sends here, too.

- The Host header must name this machine, or a page could reach the demo under a name of its own (DNS rebinding).
- A request that says which page sent it must come from the demo's own.
- A request must have the token. The printed address has it in its query. The answer to that address sets it as a
  cookie, which the browser sends with the page's own requests, and with those of no other site (SameSite=Strict).
- What the demo serves may load and send only from and to the demo (Content-Security-Policy).
"""

import hmac
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOSTS = ("127.0.0.1", "localhost")
QUERY = "token"  # in the address that is opened
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",  # the next demo on this port may show another model
}
_REFUSAL = "token: found none, or another demo's; fix: open the whole address that `idxtrain demo` printed"


class Guard:
    """An ASGI application in front of another one."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it with 403."""
        if scope["type"] == "websocket":  # there are none
            await send({"type": "websocket.close"})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        is_entry = self._is_entry(scope)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                answered = MutableHeaders(scope=message)
                answered.update(_HEADERS)
                if is_entry and not problem:
                    cookie = f"{_cookie(scope)}={self._token.decode()}; Path=/; HttpOnly; SameSite=Strict"
                    answered.append("Set-Cookie", cookie)
            await send(message)

        # The entry may be opened from anywhere, such as a file: who knows the token may come in.
        problem = _problem(headers, is_entry) or ("" if is_entry or self._has_cookie(scope, headers) else _REFUSAL)
        answer: Any = PlainTextResponse(problem, 403) if problem else self._app
        await answer(scope, receive, send_guarded)

    def _is_entry(self, scope: Scope) -> bool:
        """Return whether a request is for the address that was printed, with its token."""
        given = parse_qs(scope["query_string"].decode("latin-1")).get(QUERY, [""])[0]
        return scope["method"] == "GET" and scope["path"] == "/" and self._is_token(given)

    def _has_cookie(self, scope: Scope, headers: Headers) -> bool:
        # Starlette's parser: Python's own takes none where another program on this machine set an invalid one.
        return self._is_token(cookie_parser(headers.get("cookie", "")).get(_cookie(scope), ""))

    def _is_token(self, given: str) -> bool:
        """Compare in the same time wherever the two differ."""
        return hmac.compare_digest(given.encode(), self._token)


def _cookie(scope: Scope) -> str:
    """Return the cookie's name: browsers keep one set of cookies for all ports, so each port has a name of its own."""
    return f"idxtrain-demo-{scope['server'][1]}"


def _problem(headers: Headers, is_entry: bool) -> str:
    """Return why a request does not come from the demo's own page, or ""."""
    host = headers.get("host", "")
    if _name(f"//{host}") not in HOSTS:
        return f"Host: found {host!r}, expected this machine, {' or '.join(HOSTS)}"
    origin = headers.get("origin")
    if origin is not None and origin != f"http://{host}":
        return f"Origin: found {origin!r}, expected http://{host}"
    site = headers.get("sec-fetch-site", "none")
    if site not in ("same-origin", "none") and not is_entry:
        return f"Sec-Fetch-Site: found {site!r}, expected same-origin"
    return ""


def _name(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None
