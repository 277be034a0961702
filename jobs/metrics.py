"""The contract of metrics.json, the result of a run: what `evaluate` writes and everything else reads.

The JSON schema in `jobs/schemas/metrics.schema.json` is made from these models. No NumPy and no TensorFlow here.
"""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from jobs.dataset import Source
from jobs.errors import InputError, one_line
from jobs.files import read_object
from jobs.run_dir import RunDir


class Document(BaseModel):
    """A frozen JSON object of a run. Keys that a newer version adds are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


def _label_as_name(fields: Mapping[str, object]) -> str:
    return str(fields["label"])


class ClassMetrics(Document):
    """The figures of one class that the model knows."""

    label: int = Field(description="label in the archives")
    name: str = Field(default_factory=_label_as_name, description="class name; the label if it has none")
    precision: float | None = Field(description="null if the class was never predicted")
    recall: float | None = Field(description="null if the class has no images")
    support: int = Field(ge=0, description="number of test images of the class")


class UnseenClass(Document):
    """A class that only the test images have: the model cannot predict it."""

    label: int = Field(description="label in the archives")
    name: str = Field(description="class name; the label if it has none")
    count: int = Field(ge=1, description="number of test images of the class")


class UnseenMetrics(Document):
    """Test images of classes that training lacks. Each of them counts as an error."""

    count: int = Field(ge=1, description="number of these images")
    classes: tuple[UnseenClass, ...] = Field(description="the classes, by label")
    accuracy_without: float | None = Field(description="accuracy on all other test images; null if there are none")


class TestMetrics(Document):
    """The figures of the test split, each image evaluated exactly once."""

    accuracy: float = Field(ge=0, le=1, description="images of unseen classes count as errors")
    errors: int = Field(ge=0)
    count: int = Field(ge=1, description="number of test images")
    ci95: tuple[float, float] = Field(description="95 % Wilson interval of the accuracy")
    loss: float | None = Field(
        description="mean cross-entropy in nats over the images of known classes; below 0 only by rounding; null if "
        "there are no such images"
    )
    classes: tuple[ClassMetrics, ...] = Field(description="one entry per class that the model knows, by label")
    unseen: UnseenMetrics | None = Field(
        default=None, description="null if training has every class of the test images"
    )
    confusion: tuple[tuple[int, ...], ...] = Field(
        description="matrix of image counts: a row per true class, in the order of `classes` and then of "
        "`unseen.classes`; a column per predicted class, in the order of `classes`. For more than 1,000 classes a list "
        "of [true label, predicted label, count]"
    )


CaveatKind = Literal[
    "images-in-training",
    "unseen-classes",
    "left-out-images",
    "missing-classes",
    "one-class-in-test",
    "one-class-in-validation",
    "few-images",
    "below-validation",
    "made-from-training",
    "few-updates",
    "loss-still-falling",
]


class Caveat(Document):
    """What to know before trusting the accuracy."""

    kind: CaveatKind
    text: str = Field(description="one line, for people")
    figures: Mapping[str, float | None] = Field(description="the numbers in the text")


class ReliabilityBin(Document):
    """Test images of similar confidence, which is the probability of the predicted class."""

    count: int = Field(ge=1, description="number of images")
    confidence: float = Field(description="their mean confidence")
    accuracy: float = Field(description="the share of them that was predicted correctly")


class SureMetrics(Document):
    """The test images of which the model is sure: those whose confidence is at least a limit found on validation."""

    precision_on_validation: float = Field(description="what the limit was chosen for: at least this precision")
    confidence: float = Field(description="the limit: the lowest one that has this precision on the validation split")
    count: int = Field(ge=0, description="number of test images with this confidence or a higher one")
    share: float = Field(description="of all test images")
    errors: int = Field(ge=0, description="of these images")
    precision: float | None = Field(description="the share of them predicted correctly; null if there are none")


class CalibrationMetrics(Document):
    """Whether the model's confidence is the accuracy it has. What is chosen, is chosen on the validation split."""

    bins: tuple[ReliabilityBin, ...] = Field(description="at most 15 of equally many test images, by confidence")
    ece: float = Field(ge=0, le=1, description="expected calibration error over these bins")
    temperature: float | None = Field(
        description="what the logits are divided by for the lowest loss on the validation split; null if there is no "
        "lowest, as without errors there"
    )
    ece_with_temperature: float | None = Field(description="the expected calibration error with this temperature")
    sure: SureMetrics | None = Field(description="null if no limit has this precision on the validation split")


class TestData(Document):
    """The archives of an evaluation on other data than the run's own test split."""

    folder: str
    images: Source
    labels: Source


EndReason = Literal["length", "early-stopping"]


class ValidationMetrics(Document):
    """The figures of the saved model on the validation split; null if it has no rows."""

    accuracy: float | None
    errors: int | None
    loss: float | None = Field(description="mean cross-entropy in nats")
    count: int = Field(ge=0, description="number of validation images")


class TrainMetrics(Document):
    """What the training did."""

    images: int = Field(ge=0, description="images trained on, repeated ones included")
    steps: int = Field(ge=0)
    batch_size: int | None = Field(default=None, description="rows of a global batch, as chosen for the data")
    kept_step: int | None = Field(default=None, description="updates of the saved model; see train.keep")
    ended_by: EndReason | None = Field(default=None, description="length: the planned steps; or early-stopping")
    images_per_second: float | None
    precision: str = Field(description="type of the computation: float32, bfloat16 or float16")


class StageSeconds(Document):
    """Wall time of each stage's process in seconds, start-up included."""

    fetch: float
    prepare: float
    train: float
    evaluate: float
    total: float


class Metrics(Document):
    """metrics.json."""

    run_id: str
    recipe: str
    seed: int
    world_size: int = Field(ge=1, description="number of ranks")
    dataset_id: str = Field(description="of the dataset with the test images")
    data: TestData | None = Field(default=None, description="null if the test images are the dataset's own test split")
    test: TestMetrics
    calibration: CalibrationMetrics | None = Field(default=None, description="null in files of older versions")
    caveats: tuple[Caveat, ...] = Field(default=(), description="what to know before trusting the accuracy")
    validation: ValidationMetrics
    train: TrainMetrics
    seconds: StageSeconds
    versions: Mapping[str, str] = Field(description="of Python and the libraries that trained")


def read_metrics(run: RunDir) -> Metrics:
    """Read a run's metrics.json. Raises InputError if it is missing or not valid."""
    try:
        return Metrics.model_validate(read_object(run.metrics_file, run.tested_by))
    except ValueError as error:
        raise InputError(f"{run.metrics_file}: {one_line(error)}; fix: {run.tested_by}") from error
