"""The values of a model registry: see `deploy.registry.registry`. Imports nothing heavy."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
ALIASES = (CHAMPION, CHALLENGER, PREVIOUS)

_NAME = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,100}")


def is_name(text: str) -> bool:
    """Return whether a text can name a registered model: it becomes a folder, and part of MLflow's queries."""
    return _NAME.fullmatch(text) is not None


@dataclass(frozen=True, kw_only=True)
class Version:
    """One version of a registered model.

    `created`: seconds since 1970. `run_id`: of an idxtrain run, not of MLflow's. `accuracy`: None if its tag is not a
    number. `model_sha256`: "" if its tag is not a SHA-256.
    """

    number: int
    run_id: str
    accuracy: float | None
    model_sha256: str
    created: float
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What the registry records of a run.

    `model`: the Keras file. `shape`: height, width, channels of an image. `labels`, `class_names`: of each output, the
    label in the archives and its name. `parameters`, `metrics`: flat. `curve`: (key, value, step). `files`: artifacts
    beside the model; missing ones are skipped. `data`: facts of the training data, with which the gate of a later run
    compares its own. `code`: identity of the code.
    """

    run_id: str
    model: Path
    model_sha256: str
    shape: tuple[int, int, int]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]
    parameters: Mapping[str, str]
    metrics: Mapping[str, float]
    curve: tuple[tuple[str, float, int], ...]
    dataset_id: str
    data: Mapping[str, Any]
    code: Mapping[str, str]
    files: tuple[Path, ...]


def without_password(uri: str) -> str:
    """Return a URL without user name and password. Works on the text, because the URL may be invalid."""
    scheme, separator, rest = uri.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}" if separator else uri
