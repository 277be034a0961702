"""What POST /predict answers: its schema, and its JSON."""

import json
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from deploy.serving.served import ServedModel


class ClassProbability(BaseModel):
    """A class: its label in the archives, its name, and its probability in [0, 1]."""

    label: int
    name: str
    probability: float


class Prediction(ClassProbability):
    """The most probable class of an image, and the `top` classes, most probable first."""

    top: list[ClassProbability]


class ModelIdentity(BaseModel):
    """Which model computed an answer. `version`: its number in the registry, null of a run that is not registered."""

    title: str
    version: int | None
    run: str
    sha256: str


class Answer(BaseModel):
    """The answer to POST /predict: a prediction for each image, in order."""

    model: ModelIdentity
    predictions: list[Prediction]


class Refused(BaseModel):
    """Why a request is refused."""

    error: str


class Status(BaseModel):
    """What /health and /ready answer."""

    status: str


def encode(model: ServedModel, probabilities: NDArray[Any], top: int) -> bytes:
    """Return an Answer as JSON. `probabilities`: float32 [n, classes]. `top`: classes of each image that it lists.

    By hand, but for what a client could not read otherwise: through dictionaries, it takes five times as long.
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    values = np.take_along_axis(probabilities, order, 1)
    begin = _beginnings(model.manifest.labels, model.manifest.class_names)
    predictions = []
    for numbers, shares in zip(order.tolist(), values.tolist(), strict=True):
        # A float32 has 7 digits.
        classes = [f"{begin[number]}{share:.7g}" for number, share in zip(numbers, shares, strict=True)]
        predictions.append(f'{classes[0]}, "top": [{"}, ".join(classes)}}}]}}')
    identity = {
        "title": model.file.title,
        "version": model.version,
        "run": model.run_id,
        "sha256": model.file.sha256,
    }
    return f'{{"model": {json.dumps(identity)}, "predictions": [{", ".join(predictions)}]}}\n'.encode()


@lru_cache(maxsize=4)
def _beginnings(labels: tuple[int, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the JSON of a ClassProbability up to its probability, for each class."""
    return tuple(
        f'{json.dumps({"label": label, "name": name})[:-1]}, "probability": '
        for label, name in zip(labels, names, strict=True)
    )
