"""The demo's interface: what the page asks for, over HTTP. Errors are one line of plain text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse
from fastapi.staticfiles import StaticFiles
from numpy.typing import NDArray
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from jobs.demo.attention import attention
from jobs.demo.bodies import body_of, drawing_of, image_of
from jobs.demo.guard import Guard
from jobs.demo.shown import Shown
from jobs.demo.units import explain
from jobs.errors import InputError, one_line
from jobs.predict.drawing import Center, Polarity, Steps, fitted

PAGE = Path(__file__).parent / "page"
_MOST_IMAGES = 200  # described in one answer

Body = Annotated[bytes, Depends(body_of)]


def app(models: Sequence[Shown], token: str) -> ASGIApp:
    """Return the demo of these models as an ASGI application. Their IDs are their numbers: "0", "1".

    `token`: what requests must have, see `guard`; characters that a cookie can hold.
    """
    demo = FastAPI(title="idxtrain demo", openapi_url=None, docs_url=None, redoc_url=None)
    chosen = {str(number): model for number, model in enumerate(models)}

    def shown(model: str) -> Shown:
        if model not in chosen:
            raise InputError(f"model: found {model!r}, expected {' or '.join(chosen)}; fix: take it from /api/models")
        return chosen[model]

    Model = Annotated[Shown, Depends(shown)]  # noqa: N806 (a type)
    _add_errors(demo)

    @demo.get("/api/models")
    def models_() -> dict[str, Any]:
        return {"models": [model.facts(number) for number, model in enumerate(models)]}

    def fit_of(
        request: Request,
        model: Model,
        body: Body,
        polarity: Polarity = "auto",
        center: Center = "mass",
        scale: bool = True,
        thicken: bool = True,
    ) -> NDArray[Any]:
        headers = request.headers
        drawing = drawing_of(body, headers.get("content-type", ""), headers.get("x-size", ""))
        steps = Steps(polarity=polarity, center=center, scale=scale, thicken=thicken)
        return fitted(drawing, model.form, steps)

    Fit = Annotated[NDArray[Any], Depends(fit_of)]  # noqa: N806 (a type)

    @demo.post("/api/fit")
    def fit(fit: Fit) -> Response:
        return _floats(fit)

    @demo.post("/api/draw")
    def draw(model: Model, fit: Fit) -> Response:
        return _binary(model.network.frame(fit))

    @demo.post("/api/look")
    def look(model: Model, body: Body) -> Response:
        return _binary(model.network.frame(image_of(body, model.network.shape)))

    @demo.post("/api/unit")
    def unit(
        model: Model, body: Body, layer: str, at: Annotated[str, Query(pattern=r"^\d{1,9}(,\d{1,9}){0,2}$")]
    ) -> dict[str, Any]:
        image = image_of(body, model.network.shape)
        return explain(model.network, layer, tuple(map(int, at.split(","))), image)

    @demo.post("/api/attention")
    def attend(model: Model, body: Body, of: Annotated[int, Query(alias="class", ge=0)]) -> Response:
        if of >= model.manifest.classes:
            raise InputError(f"class: found {of}, expected 0 to {model.manifest.classes - 1}; fix: choose such a class")
        return _floats(attention(model.network, image_of(body, model.network.shape), of))

    @demo.get("/api/images")
    def images(
        model: Model,
        which: Literal["test", "errors"] = "test",
        of: Annotated[int | None, Query(alias="class", ge=0)] = None,
        start: Annotated[int, Query(alias="from", ge=0)] = 0,
        count: Annotated[int, Query(ge=1, le=_MOST_IMAGES)] = 48,
    ) -> list[dict[str, Any]]:
        return _described(model, _found(lambda: model.gallery.rows(which, of))[start : start + count])

    @demo.get("/api/image")
    def image(model: Model, index: int) -> Response:
        return _floats(_found(lambda: model.gallery.image(model.gallery.position(index))))

    demo.mount("/", StaticFiles(directory=PAGE, html=True))
    return Guard(demo, token)


def _described(model: Shown, positions: Any) -> list[dict[str, Any]]:
    """Return what is known about test images. Without predictions, the model makes them now."""
    test = model.gallery.test
    if test.predicted is not None and test.probabilities is not None:
        predicted, probabilities = test.predicted[positions], test.probabilities[positions]
    else:
        images = np.array([model.gallery.image(int(each)) for each in positions]).reshape(-1, *model.network.shape)
        every = model.network.probabilities(images)
        predicted, probabilities = every.argmax(axis=1), every.max(axis=1)
    return [
        {
            "index": int(test.indices[position]),
            "label": int(test.labels[position]),
            "predicted": int(predicted[i]),
            "probability": float(probabilities[i]),
        }
        | ({"picture": test.pictures[position]} if test.pictures else {})
        for i, position in enumerate(positions)
    ]


def _found(read: Any) -> Any:
    """Return what `read` returns; InputErrors of files that are not here become 404."""
    try:
        return read()
    except InputError as error:
        raise HTTPException(404, str(error)) from error


def _add_errors(demo: FastAPI) -> None:
    @demo.exception_handler(HTTPException)
    def refuse(request: Request, error: HTTPException) -> Response:
        return PlainTextResponse(str(error.detail), error.status_code)

    @demo.exception_handler(ClientDisconnect)
    def end(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=400)  # nobody reads it: the page was closed or reloaded

    @demo.exception_handler(RequestValidationError)
    def refuse_parameter(request: Request, error: RequestValidationError) -> Response:
        return PlainTextResponse(one_line(error), 422)

    @demo.exception_handler(InputError)
    def refuse_input(request: Request, error: InputError) -> Response:
        return PlainTextResponse(str(error), 422)


def _floats(numbers: Any) -> Response:
    return _binary(numbers.astype("<f4").tobytes())


def _binary(content: bytes) -> Response:
    return Response(content, media_type="application/octet-stream")
