"""The facts that the gate decides on: the challenger's result, its file, its training data, and the champions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jobs.config import Section
from jobs.evaluate.comparison import FeatureDrift, Paired


class DataFacts(Section):
    """Facts of training data that the drift checks compare: of a training split, or of one segment.

    `labels`: of the classes, in the archives; empty in records of versions whose labels were 0 to classes − 1.
    `label_counts`: images per class. `mean`, `std`: of the normalized pixels, in [0, 1].
    """

    name: str
    shape: tuple[int, ...]
    classes: int
    label_counts: tuple[int, ...]
    mean: float
    std: float
    labels: tuple[int, ...] = ()

    @property
    def all_labels(self) -> tuple[int, ...]:
        """The label of each class."""
        return self.labels or tuple(range(self.classes))

    @property
    def images_by_label(self) -> dict[int, int]:
        """The number of images of each label."""
        return dict(zip(self.all_labels, self.label_counts, strict=False))


@dataclass(frozen=True, kw_only=True)
class EvaluationFacts:
    """The challenger's result on the test set of `count` images.

    `ci95`: the 95 % confidence interval of the accuracy. `recalls`: by class, as texts name it; None for a class that
    has no test images.
    """

    accuracy: float
    ci95: tuple[float, float]
    count: int
    recalls: Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """The challenger's file. `latency_ms`: of one image, median.

    `difference`: the largest difference of any probability between the reloaded model and the evaluation. Both are None
    if the file does not load, for the reason in `fault`.
    """

    bytes: int
    latency_ms: float | None
    difference: float | None
    fault: str = ""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that the gate decides on. `test`: the challenger's result.

    `data`: the challenger's training split, then the segments that the champion was not trained on.
    `drift`: of the champion's features, for each of these segments; `drift_unknown`: why that is unknown, or "".
    `paired`: against the champion; None without a champion, or if it cannot be compared, for the reason in
    `incomparable`. `best`: against the best champion so far, unless that is the champion; `best_name` names it.
    `test_images_in_training`: how many test images are also in the training data; None if that is unknown.
    """

    test: EvaluationFacts
    model: ModelFacts
    data: Sequence[DataFacts]
    champion_data: DataFacts | None = None
    drift: Sequence[FeatureDrift] = ()
    drift_unknown: str = ""
    paired: Paired | None = None
    incomparable: str = ""
    best: Paired | None = None
    best_name: str = ""
    test_images_in_training: int | None = None
