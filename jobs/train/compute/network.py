"""The model and the optimizer that a config describes, for one device."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

import models
from jobs.dataset import Manifest
from jobs.errors import InputError, one_line
from jobs.model_file.load import load_keras
from jobs.train.config import TrainConfig
from models.training.ema import EMA
from models.training.loss_scale import LossScale
from models.training.norm import normalizes
from models.training.optimizers import OPTIMIZERS, Hyperparameters


class Network:
    """A model, its optimizer and its average: all that a training changes.

    `final`: the model that is validated and kept: that of the averaged weights, where they are averaged, else `model`.
    """

    def __init__(self, config: TrainConfig, manifest: Manifest, seed: int, precision: str) -> None:
        """`precision`: float32, bfloat16 or float16."""
        keras.utils.set_random_seed(seed)
        keras.config.set_dtype_policy("float32" if precision == "float32" else f"mixed_{precision}")
        pixels = manifest.pixels
        standardize = (pixels.mean, pixels.std or 1.0) if config.standardize else None
        self.model = models.build(config.model, manifest.shape, manifest.classes, config.dropout, standardize)
        if config.deterministic and normalizes(self.model):
            raise InputError(
                f"train.deterministic: model {config.model} normalizes over the whole batch, which is not exact at any "
                "number of ranks; choose a model without, or train without train.deterministic"
            )
        self.optimizer = OPTIMIZERS[config.optimizer](
            [variable.value for variable in self.model.trainable_variables],
            Hyperparameters(
                config.momentum, config.rho, config.beta1, config.beta2, config.epsilon, config.weight_decay
            ),
        )
        self.loss_scale = LossScale() if precision == "float16" else None
        self.final = self.model
        self.ema: EMA | None = None
        if config.ema_decay is not None:
            self.final = keras.models.clone_model(self.model)
            self.final.set_weights(self.model.get_weights())
            weights, averages = (
                # Without Keras's own random state, an integer that nothing here draws by.
                [v.value for v in model.variables if v.value.dtype.is_floating]
                for model in (self.model, self.final)
            )
            self.ema = EMA(weights, averages, config.ema_decay)

    def variables(self) -> Iterator[tuple[str, tf.Variable]]:
        """Yield all state by name: weights, also those not trained by gradient, slots, averages, and loss scale."""
        for number, variable in enumerate(self.model.variables):
            yield f"weight.{number}", variable.value
        for name, slots in self.optimizer.slots.items():
            for number, slot in enumerate(slots):
                yield f"{name}.{number}", slot
        if self.ema:
            for number, variable in enumerate(self.final.variables):
                yield f"average.{number}", variable.value
        if self.loss_scale:
            yield "loss_scale.factor", self.loss_scale.factor
            yield "loss_scale.streak", self.loss_scale.streak

    def state(self) -> dict[str, Any]:
        """Return a copy of all state, as NumPy arrays by name."""
        return {name: variable.numpy().copy() for name, variable in self.variables()}

    def restore(self, arrays: dict[str, Any]) -> None:
        """Set all state from arrays by name; raises KeyError or ValueError where they are another network's."""
        for name, variable in self.variables():
            variable.assign(arrays[name])

    def warm_start(self, path: Path) -> None:
        """Take over the weights of a trained model's file; raise InputError where it is of another architecture."""
        trained = load_keras(path, "train without it")
        try:
            for model in (self.model, self.final):
                model.set_weights(trained.get_weights())
        except Exception as error:  # Keras raises one thing for another number of weights, another for another shape
            raise InputError(
                f"{path}: its weights do not fit model {self.model.name} ({one_line(error)[:200]}); train without it"
            ) from error

    @property
    def state_bytes(self) -> int:
        """The size of all state in bytes, as in a checkpoint."""
        return sum(int(tf.size(variable)) * variable.dtype.size for _, variable in self.variables())
