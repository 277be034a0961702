"""Untrained networks for tests of the demo, with weights that hide no fault: random in every layer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jobs.demo.gallery import Gallery
from jobs.demo.network import Network
from jobs.demo.shown import Shown
from tests.support.prepared import bare_manifest


def untrained(architecture: str, shape: tuple[int, int, int], classes: int, seed: int = 0) -> Any:
    """Return a keras.Model as `train` exports it: standardizing, with probabilities; all weights random."""
    import models
    from models.training.export import portable

    model = portable(models.build(architecture, shape, classes, standardize=(0.2, 0.3)))
    random = np.random.default_rng(seed)
    weights = []
    for variable in model.weights:
        values = random.normal(0, 1 / np.sqrt(max(1, np.prod(variable.shape[:-1]))), variable.shape)
        is_positive = "variance" in variable.path or "gamma" in variable.path
        weights.append(np.abs(values) + 0.2 if is_positive else values)
    model.set_weights(weights)
    return model


def shown(models: Sequence[Any], dataset: Path = Path("nowhere"), predictions: Path | None = None) -> list[Shown]:
    """Return models, of any data, as the demo shows them."""
    result = []
    for number, model in enumerate(models):
        manifest = bare_manifest(tuple(model.input_shape[1:]), model.output_shape[-1])
        result.append(
            Shown(
                title=f"run test-{number}",
                recipe="test",
                accuracy=None,
                manifest=manifest,
                network=Network(model),
                gallery=Gallery(dataset, manifest, predictions),
            )
        )
    return result
