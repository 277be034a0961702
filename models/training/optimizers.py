"""Optimizers by name. Each updates a variable with one fused kernel of tf.raw_ops, which reads gradient and slots once.

Keras's own optimizers run many small operations, which took 20 % of a batch-50 step. A slot is a variable with the
shape of the weight that it belongs to.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import tensorflow as tf

from models.training.orthogonal import orthogonalized
from models.training.types import Tensor, Variable


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """Constants of the update formulas, besides the learning rate. Each optimizer reads those of its formula."""

    momentum: float = 0.9
    rho: float = 0.9
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0


class Optimizer(ABC):
    """Updates a fixed list of float32 variables."""

    slot_names: tuple[str, ...] = ()

    def __init__(self, variables: Sequence[Variable], hyperparameters: Hyperparameters) -> None:
        self.variables = list(variables)
        self.h = hyperparameters
        self.slots = {
            name: [tf.Variable(tf.zeros_like(v), trainable=False, name=f"slot_{name}") for v in self.variables]
            for name in self.slot_names
        }

    def apply(self, gradients: Sequence[Tensor], rate: Tensor, step: Tensor) -> None:
        """Update all variables in place. `rate`: float32 scalar; `step`: int32 scalar, 0 for the first update."""
        for position, (variable, gradient) in enumerate(zip(self.variables, gradients, strict=True)):
            slots = {name: slots[position] for name, slots in self.slots.items()}
            self._update(variable, gradient, rate, step, **slots)

    @abstractmethod
    def _update(self, variable: Variable, gradient: Tensor, rate: Tensor, step: Tensor, **slots: Variable) -> None: ...


class SGD(Optimizer):
    """Gradient descent: w ← w − η g."""

    def _update(self, variable: Variable, gradient: Tensor, rate: Tensor, step: Tensor, **slots: Variable) -> None:
        tf.raw_ops.ResourceApplyGradientDescent(var=variable.handle, alpha=rate, delta=gradient)


class Momentum(Optimizer):
    """Heavy ball: a ← μ a + g, w ← w − η a. Polyak, "Some methods of speeding up…" (1964)."""

    slot_names = ("velocity",)
    nesterov = False

    def _update(self, variable: Variable, gradient: Tensor, rate: Tensor, step: Tensor, **slots: Variable) -> None:
        tf.raw_ops.ResourceApplyMomentum(
            var=variable.handle,
            accum=slots["velocity"].handle,
            lr=rate,
            grad=gradient,
            momentum=self.h.momentum,
            use_nesterov=self.nesterov,
        )


class Nesterov(Momentum):
    """Nesterov momentum: w ← w − η (g + μ a). Sutskever et al., "On the importance of…" (2013)."""

    nesterov = True


class RMSProp(Optimizer):
    """Gradients divided by their running root mean square. Tieleman and Hinton, Coursera lecture 6.5 (2012)."""

    slot_names = ("mean_square", "velocity")

    def _update(self, variable: Variable, gradient: Tensor, rate: Tensor, step: Tensor, **slots: Variable) -> None:
        tf.raw_ops.ResourceApplyRMSProp(
            var=variable.handle,
            ms=slots["mean_square"].handle,
            mom=slots["velocity"].handle,
            lr=rate,
            rho=self.h.rho,
            momentum=0.0,
            epsilon=self.h.epsilon,
            grad=gradient,
        )


class Adadelta(Optimizer):
    """Steps in the units of the weights. Zeiler, "ADADELTA: an adaptive learning rate method" (2012), algorithm 1."""

    slot_names = ("mean_square", "mean_square_step")

    def _update(self, variable: Variable, gradient: Tensor, rate: Tensor, step: Tensor, **slots: Variable) -> None:
        tf.raw_ops.ResourceApplyAdadelta(
            var=variable.handle,
            accum=slots["mean_square"].handle,
            accum_update=slots["mean_square_step"].handle,
            lr=rate,
            rho=self.h.rho,
            epsilon=self.h.epsilon,
            grad=gradient,
        )


class Adam(Optimizer):
    """Kingma and Ba, "Adam: a method for stochastic optimization" (2015), in the ε̂ form of its section 2."""

    slot_names = ("m", "v")

    def _update(self, variable: Variable, gradient: Tensor, rate: Tensor, step: Tensor, **slots: Variable) -> None:
        updates = tf.cast(step + 1, tf.float32)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=slots["m"].handle,
            v=slots["v"].handle,
            beta1_power=tf.pow(self.h.beta1, updates),
            beta2_power=tf.pow(self.h.beta2, updates),
            lr=rate,
            beta1=self.h.beta1,
            beta2=self.h.beta2,
            epsilon=self.h.epsilon,
            grad=gradient,
        )


class AdamW(Adam):
    """Adam with decoupled weight decay, w ← w − η λ w, before each update. Loshchilov and Hutter (2019)."""

    def _update(self, variable: Variable, gradient: Tensor, rate: Tensor, step: Tensor, **slots: Variable) -> None:
        variable.assign_sub(rate * self.h.weight_decay * variable)
        super()._update(variable, gradient, rate, step, **slots)


class Lamb(Adam):
    """Adam with decoupled weight decay, each variable's step scaled to its weights' norm, for large batches.

    w ← w − η (‖w‖ / ‖u‖) u with u = m̂ / (√v̂ + ε) + λ w; the ratio is 1 where either norm is 0. You et al., "Large batch
    optimization for deep learning" (2020), algorithm 2 with φ(z) = z. No kernel does this in one pass.
    """

    def _update(self, variable: Variable, gradient: Tensor, rate: Tensor, step: Tensor, **slots: Variable) -> None:
        m, v, h = slots["m"], slots["v"], self.h
        updates = tf.cast(step + 1, tf.float32)
        m.assign(h.beta1 * m + (1 - h.beta1) * gradient)
        v.assign(h.beta2 * v + (1 - h.beta2) * tf.square(gradient))
        corrected = m / (1 - tf.pow(h.beta1, updates))
        root = tf.sqrt(v / (1 - tf.pow(h.beta2, updates)))
        direction = corrected / (root + h.epsilon) + h.weight_decay * variable
        weights, length = tf.norm(variable), tf.norm(direction)
        ratio = tf.where((weights > 0) & (length > 0), tf.math.divide_no_nan(weights, length), 1.0)
        variable.assign_sub(rate * ratio * direction)


class Muon(AdamW):
    """Momentum, orthogonalized, for the kernels of hidden layers; AdamW for all other variables.

    a ← μ a + g, w ← w − η (0.2 √max(m, n) O(g + μ a) + λ w), where O orthogonalizes a kernel as a matrix of m inputs,
    filter positions included, and n outputs. Jordan et al., "Muon: an optimizer for hidden layers in neural networks"
    (2024). The factor gives an update the size of AdamW's, so that one rate fits both: Liu et al., "Muon is scalable
    for LLM training" (2025), section 2.2. The last kernel is the output layer's, and AdamW's.
    """

    slot_names = ("m", "v")  # a is in m; a hidden kernel's v is not used

    def __init__(self, variables: Sequence[Variable], hyperparameters: Hyperparameters) -> None:
        super().__init__(variables, hyperparameters)
        kernels = [variable.ref() for variable in self.variables if len(variable.shape) > 1]
        self._hidden = set(kernels[:-1])

    def _update(self, variable: Variable, gradient: Tensor, rate: Tensor, step: Tensor, **slots: Variable) -> None:
        if variable.ref() not in self._hidden:
            super()._update(variable, gradient, rate, step, **slots)
            return
        momentum = slots["m"]
        momentum.assign(self.h.momentum * momentum + gradient)
        ahead = tf.reshape(gradient + self.h.momentum * momentum, [-1, variable.shape[-1]])
        scale = 0.2 * max(ahead.shape) ** 0.5
        direction = tf.reshape(scale * orthogonalized(ahead), variable.shape) + self.h.weight_decay * variable
        variable.assign_sub(rate * direction)


OPTIMIZERS: dict[str, type[Optimizer]] = {
    "sgd": SGD,
    "momentum": Momentum,
    "nesterov": Nesterov,
    "rmsprop": RMSProp,
    "adadelta": Adadelta,
    "adam": Adam,
    "adamw": AdamW,
    "lamb": Lamb,
    "muon": Muon,
}
