"""The training loss: cross-entropy, with optional label smoothing and class weights."""

from collections.abc import Sequence

import tensorflow as tf

from models.training.types import Tensor


def cross_entropy(
    labels: Tensor, logits: Tensor, smoothing: float = 0.0, class_weights: Sequence[float] | None = None
) -> Tensor:
    """Return each row's loss: float32 [n]. `labels`: int32 [n]. `logits`: float32 [n, classes].

    `smoothing`: the share ε in [0, 1) of each label that is spread evenly over all classes. The loss is then
    (1 − ε) · −log p(label) + ε · the mean of −log p over the classes. Szegedy et al., "Rethinking the inception
    architecture" (2016), section 7. `class_weights`: by class number, each row's factor by its label; None: all 1.
    """
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    if smoothing:
        even = tf.reduce_logsumexp(logits, axis=1) - tf.reduce_mean(logits, axis=1)
        losses = (1 - smoothing) * losses + smoothing * even
    if class_weights is not None:
        losses *= tf.gather(tf.constant(class_weights, tf.float32), labels)
    return losses
