"""A loaded model that is being served: which one it is, and its forward pass for batches of a few fixed sizes."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.serving.candidate import Candidate
from jobs.errors import InputError
from jobs.evaluate.predict import check_probabilities
from jobs.predict.classifier import Classifier

_WARM_UPS = 3  # calls of each size: the first ones trace, choose kernels and allocate


def sizes(most: int) -> tuple[int, ...]:
    """Return the batch sizes that a model computes: powers of two below `most`, and `most`."""
    return (*(2**power for power in range((most - 1).bit_length())), most)


class ServedModel:
    """A model, loaded and warmed up."""

    def __init__(self, candidate: Candidate, most: int) -> None:
        """Load the model and compute each batch size up to `most`, so that no request waits for that.

        Raises InputError if the file is not the recorded one, or its output is not probabilities.
        """
        self.file, self.version, self.run_id = candidate.file, candidate.version, candidate.run_id
        self.classifier = Classifier(candidate.file, Path(os.devnull))
        self.manifest = candidate.file.manifest
        self._sizes = sizes(most)
        random = np.random.default_rng(0)
        for size in self._sizes:
            images = random.random((size, *self.manifest.shape), np.float32)
            for _ in range(_WARM_UPS):
                probabilities = self.classifier.probabilities(images)
            try:
                check_probabilities(probabilities)
            except InputError as error:
                raise InputError(f"{self.file.title}: {error}") from error

    def probabilities(self, images: NDArray[Any]) -> NDArray[Any]:
        """Return float32 [n, classes] for float32 [n, height, width, channels], n up to the largest batch.

        A batch is padded with black images to the next size: TensorFlow sees no size that is new to it.
        """
        count = len(images)
        size = next(each for each in self._sizes if each >= count)
        if size > count:
            padded = np.zeros((size, *images.shape[1:]), np.float32)
            padded[:count] = images
            images = padded
        return self.classifier.probabilities(images)[:count]
