"""The contract of stage records: what each finished stage leaves in `RUN/stages/NAME.json` for later stages."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from jobs.archive import Archive
from jobs.description import Description
from jobs.metrics import Caveat, Document, TrainMetrics, ValidationMetrics


class OutputFile(Document):
    """An output file as the stage left it. The stage is done only while the file stays like that."""

    path: str
    bytes: int
    mtime_ns: int

    def is_untouched(self) -> bool:
        """Return whether the file still has this size and modification time."""
        try:
            status = Path(self.path).stat()
        except (OSError, ValueError):  # ValueError: a path that no file can have
            return False
        return (status.st_size, status.st_mtime_ns) == (self.bytes, self.mtime_ns)


class Record(Document):
    """The record of a finished stage.

    `key`: the hash of all that went into the stage. `outputs`: facts for later stages, as JSON; see the models below.
    `seconds`: wall time of the process, start-up included.
    """

    key: str
    outputs: dict[str, Any]
    files: tuple[OutputFile, ...]
    seconds: float


class Outputs(Document):
    """The facts that a stage records. `stage`: which stage."""

    stage: ClassVar[str]


class FetchOutputs(Outputs):
    """`archives`: by role; in data sets of several training pairs by role and tag, see `jobs.segments`.

    The roles of the test pair may be missing: `prepare` then makes a test split of the training pair.
    """

    stage = "fetch"

    archives: Mapping[str, Archive]
    description: Description = Description()


class PrepareOutputs(Outputs):
    """`dataset`: the directory of the dataset. `manifest_sha256`: of the file manifest.json."""

    stage = "prepare"

    dataset: Path
    dataset_id: str
    manifest_sha256: str


class TrainOutputs(TrainMetrics, Outputs):
    """What rank 0 records. `weights_sha256`: of each rank's weights and optimizer slots, all equal.

    `caveats`: few updates, or a loss that was still falling.
    """

    stage = "train"

    model_sha256: str
    world_size: int
    validation: ValidationMetrics
    weights_sha256: tuple[str, ...]
    caveats: tuple[Caveat, ...] = ()
    versions: Mapping[str, str]


class EvaluateOutputs(Outputs):
    """The result in short. `metrics_sha256`: of the file metrics.json."""

    stage = "evaluate"

    metrics_sha256: str
    test_accuracy: float
    test_errors: int
    test_count: int
