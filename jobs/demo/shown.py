"""A model as the demo shows it."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jobs.dataset import Manifest
from jobs.demo.gallery import Gallery
from jobs.demo.network import Network
from jobs.demo.units import explains
from jobs.errors import InputError
from jobs.predict.glyph import Form, measured, unknown_form

_SAMPLE = 512  # images to measure the form of the data on


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A model with what is known about it. `title`: in words. `accuracy`: on the test set, None if not tested.

    `gallery`: the test images, if their dataset is known.
    """

    title: str
    recipe: str
    accuracy: float | None
    manifest: Manifest
    network: Network
    gallery: Gallery

    @cached_property
    def form(self) -> Form:
        """How images of the data look, measured on the training images if they are here."""
        try:
            return measured(self.gallery.sample(_SAMPLE), self.manifest)
        except InputError:
            return unknown_form(self.manifest)

    def facts(self, number: int) -> dict[str, Any]:
        """Return what /api/models lists of the model, the `number`-th of the command line."""
        return {
            "id": str(number),
            "title": self.title,
            "recipe": self.recipe,
            "accuracy": self.accuracy,
            "shape": self.manifest.shape,
            "mean": self.manifest.pixels.mean,
            "classes": [
                {"label": str(label), "name": name}
                for label, name in zip(self.manifest.labels, self.manifest.class_names, strict=True)
            ][: self.manifest.classes],
            "parameters": self.network.model.count_params(),
            "layers": [
                {
                    "name": layer.name,
                    "kind": layer.kind,
                    "shape": layer.shape,
                    "parameters": layer.layer.count_params(),
                    "inputs": layer.inputs,
                    "explains": explains(layer),
                }
                for layer in self.network.layers.values()
            ],
        }
