"""Names for the types of TensorFlow, which has no type information of its own."""

from typing import Any, TypeAlias

Tensor: TypeAlias = Any  # a tf.Tensor or a Keras symbolic tensor; a function's docstring has its shape and dtype
Variable: TypeAlias = Any  # a tf.Variable
