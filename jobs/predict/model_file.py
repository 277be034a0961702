"""Which model is used, and what it was trained on. Imports nothing heavy."""

from dataclasses import dataclass
from pathlib import Path

from jobs.dataset import Manifest


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """A trained model before it is loaded.

    `title`: in messages, e.g. "run fast-1" or "digits version 3". `sha256`: of the file. `manifest`: of the dataset
    that the model was trained on: image shape, classes, how stored values become [0, 1]. `run_id`: of the run that
    trained it, whose folder may be gone.
    """

    title: str
    path: Path
    sha256: str
    manifest: Manifest
    run_id: str = ""
