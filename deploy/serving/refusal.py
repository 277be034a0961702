"""Answers that refuse a request: one JSON line `{"error": "…"}`, in the form of the project's errors."""

import json
from collections.abc import Mapping

from starlette.responses import Response

from jobs.errors import printable


class RefusalError(Exception):
    """A request that is not answered with predictions. `status`: of HTTP. `message`: one line."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, dict(headers or {})

    def response(self) -> Response:
        """Return the answer."""
        return Response(self.body, self.status, self.headers, media_type="application/json")

    @property
    def body(self) -> bytes:
        """The JSON line."""
        return json.dumps({"error": printable(self.message)}).encode() + b"\n"


def busy(message: str) -> RefusalError:
    """Return the refusal of a request that may be sent again in a second."""
    return RefusalError(503, message, {"Retry-After": "1"})


def failed() -> RefusalError:
    """Return the answer to a request that met a fault of the server."""
    return RefusalError(500, "the server failed; its log has the reason")
