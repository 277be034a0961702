"""The HTTP interface: the paths of the server, and the OpenAPI description of them."""

from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from deploy.serving.answers import Answer, Refused, Status
from deploy.serving.body import read_body
from deploy.serving.images import IDX, PICTURES, RAW, media_type
from deploy.serving.refusal import RefusalError, busy, failed
from deploy.serving.service import Service

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_BODY = {
    "description": (
        "A PNG or JPEG that lies upright; or n × height × width × channels bytes of uint8, as in the archives; or an "
        "IDX archive of images, plain or gzip."
    ),
    "required": True,
    "content": dict.fromkeys((*PICTURES, RAW, IDX), _BINARY),
}
_REASONS = {
    400: "Invalid HTTP, or an unfinished body.",
    401: "No valid token.",
    408: "The request arrives too slowly.",
    413: "Too many bytes, pixels or images.",
    415: "Not a supported Content-Type or Content-Encoding.",
    422: "A damaged body, images of another shape or type, or an invalid query.",
    503: "Not ready, or too many requests. Retry-After has the seconds to wait.",
}
_TEXT = {"content": {"text/plain": {"schema": {"type": "string"}}}}


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Refused, "description": _REASONS[status]} for status in statuses}


def application(service: Service) -> FastAPI:
    """Return the application. Its pages /docs and /redoc are off: they load scripts from another server."""
    app = FastAPI(title="idxtrain", summary="Classify images.", docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_exception_handler(RefusalError, _refused)
    app.add_exception_handler(HTTPException, _not_found)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _failed)

    @app.post(
        "/predict",
        summary="Classify one or more images",
        response_model=Answer,
        responses=_refusals(400, 401, 408, 413, 415, 422, 503),
        openapi_extra={"requestBody": _BODY},
    )
    async def predict(
        request: Request,
        top: Annotated[int, Query(ge=1, le=1000, description="Number of classes to list for each image.")] = 1,
        resize: Annotated[bool, Query(description="Whether to resample a picture of another size.")] = False,
    ) -> Response:
        kind = media_type(request.headers.get("content-type", ""))
        body = await read_body(request, service.limits)
        answer = await service.answer(kind, body, top=top, resize=resize)
        return Response(answer, media_type="application/json")

    @app.get("/health", summary="Whether the process answers", response_model=Status)
    async def health() -> Response:
        return _status("healthy")

    @app.get("/ready", summary="Whether to send requests here", response_model=Status, responses=_refusals(503))
    async def ready() -> Response:
        if not service.is_ready:
            raise busy("the server stops" if service.is_stopping else "found no model yet: it is being loaded")
        return _status("ready")

    @app.get("/metrics", summary="Metrics for Prometheus", responses={200: _TEXT, **_refusals(401)})
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    return app


def _status(word: str) -> Response:
    return Response(f'{{"status": "{word}"}}\n', media_type="application/json")


async def _refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, RefusalError):
        raise error
    return error.response()


async def _not_found(request: Request, error: Exception) -> Response:
    """Answer for an unknown path (404) or method (405)."""
    if not isinstance(error, HTTPException):
        raise error
    message = f"{request.method} {request.url.path[:200]}: {error.detail}; see /openapi.json"
    return RefusalError(error.status_code, message, error.headers).response()


async def _invalid(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    problems = [f"{each['loc'][-1]}: found {str(each['input'])[:50]!r}: {each['msg']}" for each in error.errors()]
    return RefusalError(422, "query " + "; ".join(problems)).response()


async def _failed(request: Request, error: Exception) -> Response:
    """Answer for any other exception, which Starlette raises again: `Guard` logs it."""
    return failed().response()
