"""Class weights: how much each class counts in the training loss."""

from jobs.dataset import Manifest
from jobs.errors import InputError
from jobs.train.config import TrainConfig

_MOST_LISTED = 10


def class_weights(config: TrainConfig, manifest: Manifest) -> tuple[float, ...] | None:
    """Return the weight of each class by its number, with a mean of 1 over the training rows; None if all are 1.

    `balanced`: n / (k · n_c) for class c with n_c of the n training rows, k classes having any. King and Zeng,
    "Logistic regression in rare events data" (2001). Raises InputError for a label that training does not have.
    """
    if config.class_weights is None:
        return None
    counts = manifest.splits["train"].label_counts[: manifest.classes]
    if config.class_weights == "balanced":
        weights = [1 / max(count, 1) for count in counts]
    else:
        labels = manifest.labels[: manifest.classes]
        for label in config.class_weights:
            if label not in labels:
                some = ", ".join(map(str, labels[:_MOST_LISTED])) + (", …" if len(labels) > _MOST_LISTED else "")
                raise InputError(
                    f"train.class_weights: found label {label}, expected those of the training archive: {some}; "
                    "fix: use the archive's labels"
                )
        weights = [config.class_weights.get(label, 1.0) for label in labels]
    total = sum(count * weight for count, weight in zip(counts, weights, strict=True))
    return tuple(weight * sum(counts) / total for weight in weights)
