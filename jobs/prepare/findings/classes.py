"""What is odd about whole classes: very few images, imbalance, another share of the test split."""

from collections.abc import Iterator

import numpy as np

from jobs.dataset import Manifest
from jobs.prepare.findings.finding import ClassFinding
from jobs.words import counted

FEW = 10  # training images
IMBALANCE = 10  # times fewer training images than the largest class
_SHARE_RATIO = 1.5
_SHARE_Z = 5.0  # standard errors: a false flag in about two million classes


def class_findings(manifest: Manifest) -> Iterator[ClassFinding]:
    """Yield the findings of each class. Training images are those of the train split."""
    counts = {name: np.array(split.label_counts) for name, split in manifest.splits.items()}
    largest = int(counts["train"].max())
    archive = counts["train"] + counts["validation"]
    for number, (label, name) in enumerate(zip(manifest.labels, manifest.class_names, strict=True)):
        trained, tested = int(counts["train"][number]), int(counts["test"][number])
        if number < manifest.classes:
            if trained < FEW:
                yield ClassFinding(
                    finding="few-images", label=label, name=name, detail=counted(trained, "training image", "d")
                )
            if trained * IMBALANCE < largest:
                detail = f"{counted(trained, 'training image', 'd')}, the largest class has {largest}"
                yield ClassFinding(finding="imbalance", label=label, name=name, detail=detail)
        detail = _shift(int(archive[number]), int(archive.sum()), tested, int(counts["test"].sum()))
        if detail:
            yield ClassFinding(finding="shifted-share", label=label, name=name, detail=detail)


def _shift(training: int, all_training: int, test: int, all_test: int) -> str:
    """Return how a class's share of the test split differs from its share of the training data; empty if it may not.

    It differs if the ratio is at least 1.5 and the two-proportion z statistic at least 5.
    """
    if not all_test or not all_training:
        return ""
    shares = training / all_training, test / all_test
    pooled = (training + test) / (all_training + all_test)
    error = np.sqrt(pooled * (1 - pooled) * (1 / all_training + 1 / all_test))
    is_large = max(shares) >= _SHARE_RATIO * min(shares)
    if not is_large or abs(shares[0] - shares[1]) < _SHARE_Z * error:
        return ""
    return f"{100 * shares[0]:.2f} % of the training data, {100 * shares[1]:.2f} % of the test split"
