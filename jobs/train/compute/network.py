"""The model and the optimizer that a config describes, on one device."""

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
from models.training.norm import has_batch_normalization
from models.training.optimizers import OPTIMIZERS, Hyperparameters, Optimizer


class Network:
    """All that a training changes: a model, its optimizer, the EMA of its weights, the loss scale.

    `final`: the model that is validated and exported. It has the EMA if there is one; else it is `model`.
    """

    def __init__(self, config: TrainConfig, manifest: Manifest, seed: int, precision: str) -> None:
        """`precision`: float32, bfloat16 or float16."""
        keras.utils.set_random_seed(seed)
        keras.config.set_dtype_policy("float32" if precision == "float32" else f"mixed_{precision}")
        pixels = manifest.pixels
        standardize = (pixels.mean, pixels.std or 1.0) if config.standardize else None
        self.model = models.build(config.model, manifest.shape, manifest.classes, config.dropout, standardize)
        if config.deterministic and has_batch_normalization(self.model):
            raise InputError(
                f"train.deterministic: found model {config.model}, whose batch normalization rounds differently on "
                "each number of ranks, expected one without batch normalization; fix: choose another model or set "
                "train.deterministic=false"
            )
        self.optimizer = _optimizer(config, self.model)
        self.loss_scale = LossScale() if precision == "float16" else None
        self.final, self.ema = self.model, None
        if config.ema_decay is not None:
            self.final, self.ema = _with_ema(self.model, config.ema_decay)

    def variables(self) -> Iterator[tuple[str, tf.Variable]]:
        """Yield all state by the names in a checkpoint: all weights, optimizer slots, EMA (`average.N`), loss scale."""
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
        """Return a copy of all state as NumPy arrays by name."""
        return {name: variable.numpy().copy() for name, variable in self.variables()}

    def restore(self, arrays: dict[str, Any]) -> None:
        """Set all state from arrays by name. Raises KeyError or ValueError if they belong to another network."""
        for name, variable in self.variables():
            variable.assign(arrays[name])

    def warm_start(self, path: Path) -> None:
        """Set the weights to those of a trained model's file. Raises InputError if it has another architecture."""
        trained = load_keras(path, "train without it")
        try:
            for model in (self.model, self.final):
                model.set_weights(trained.get_weights())
        except Exception as error:  # Keras raises different errors for another number and for another shape of weights
            raise InputError(
                f"{path}: found weights of another architecture ({one_line(error)[:200]}), expected those of "
                f"{self.model.name}; fix: train without it"
            ) from error

    @property
    def state_bytes(self) -> int:
        """The size of all state in bytes, as in a checkpoint."""
        return sum(int(tf.size(variable)) * variable.dtype.size for _, variable in self.variables())


def _optimizer(config: TrainConfig, model: keras.Model) -> Optimizer:
    hyperparameters = Hyperparameters(
        momentum=config.momentum,
        rho=config.rho,
        beta1=config.beta1,
        beta2=config.beta2,
        epsilon=config.epsilon,
        weight_decay=config.weight_decay,
    )
    return OPTIMIZERS[config.optimizer]([variable.value for variable in model.trainable_variables], hyperparameters)


def _with_ema(model: keras.Model, decay: float) -> tuple[keras.Model, EMA]:
    """Return a copy of a model, and the EMA that moves the copy's weights after the model's."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    weights, shadows = (
        # Without Keras's own random state, an integer that nothing here draws from.
        [v.value for v in each.variables if v.value.dtype.is_floating]
        for each in (model, copy)
    )
    return copy, EMA(weights, shadows, decay)
