"""What POST /predict answers: its schema, and its JSON."""

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from deploy.serving.served import ServedModel
from jobs.dataset import Manifest


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
    """Return an Answer as JSON. `probabilities`: float32 [n, classes]. `top`: classes of each image that it lists."""
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    values = np.take_along_axis(probabilities, order, 1).astype(float)
    predictions = []
    for numbers, shares in zip(order.tolist(), values.tolist(), strict=True):
        classes = [_class(model.manifest, number, share) for number, share in zip(numbers, shares, strict=True)]
        predictions.append({**classes[0], "top": classes})
    identity = {
        "title": model.file.title,
        "version": model.version,
        "run": model.run_id,
        "sha256": model.file.sha256,
    }
    return json.dumps({"model": identity, "predictions": predictions}).encode() + b"\n"


def _class(manifest: Manifest, number: int, probability: float) -> dict[str, Any]:
    shown = float(f"{probability:.7g}")  # a float32 has 7 digits
    return {"label": manifest.labels[number], "name": manifest.class_names[number], "probability": shown}
