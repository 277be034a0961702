"""The records of retraining, as they are on disk: WORK/retrain/NAME/*.json, decision.json, and what they hold.

Each is frozen and complete. A file with an unknown or a missing key is refused, never half-read.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

from pydantic import ValidationError

from jobs.config import Section
from jobs.errors import InputError, one_line
from pipelines.gate.check import Check
from pipelines.gate.facts import DataFacts

RetrainEvent = Literal["promoted", "rejected", "waiting", "nothing-new", "busy", "failed"]
S = TypeVar("S", bound=Section)


class Record(Section):
    """A file of its own, `file_name`, in the folder of a registered model. `fix`: what to do with an unusable one."""

    file_name: ClassVar[str]
    fix: ClassVar[str]

    def to_json(self) -> dict[str, Any]:
        """Return the record as the JSON object of its file."""
        return self.model_dump(mode="json")


class FileStamp(NamedTuple):
    """A file as a directory lists it. A change of content that keeps all three is not noticed."""

    path: str
    size: int
    mtime_ns: int


class Inputs(Section):
    """What a retraining depends on: hashes of the config and of the archives' content, and the archives' stamps."""

    settings: str
    content: str
    seen: tuple[FileStamp, ...]


class TrainingData(Section):
    """What the gate compares later training data with: facts of the training split, and its archive pairs.

    `pairs`: the SHA-256 of the image and of the label archive of each. `segments`: their segment IDs, only in records
    of versions that had no `pairs`.
    """

    training: DataFacts
    segments: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()

    def has(self, segment_id: str, pair: tuple[str, str]) -> bool:
        """Return whether a pair, by its segment ID and its archives' SHA-256, is among this training data."""
        return pair in self.pairs or segment_id in self.segments


class RegisteredModel(Record):
    """A model of the registry. `models/` holds a copy of its file, named by its SHA-256."""

    version: int
    run_id: str
    model_sha256: str


class Champion(RegisteredModel):
    """champion.json: the champion, for when the registry is unreachable."""

    file_name = "champion.json"
    fix = "remove it; it is written again from the registry"

    data: TrainingData


class BestChampion(RegisteredModel):
    """best.json: the best champion so far. `champion_run`: the champion for which that holds."""

    file_name = "best.json"
    fix = "remove it; the champion then counts as the best so far"

    accuracy: float
    champion_run: str


class Rivals(Section):
    """outbox/RUN.json: the models that a run waiting for the registry was compared with."""

    champion: Champion | None
    best: BestChampion | None


class Pending(Record):
    """pending.json: the retraining under way. A killed one is resumed with the same run and the same rivals.

    `champion_dataset`: the path of the dataset that the champion was trained on; "" without one. A resumed retraining
    takes it from here, so that its config stays the same if the dataset has been removed.
    """

    file_name = "pending.json"
    fix = "remove it; the next retraining then begins a new run"

    run_id: str
    inputs: Inputs
    rivals: Rivals
    warm_start: bool
    champion_dataset: str = ""

    @property
    def champion_run(self) -> str | None:
        """The run of the champion to compare with, or None."""
        return self.rivals.champion.run_id if self.rivals.champion else None


class State(Record):
    """state.json: the last finished retraining. `text`: its outcome for people."""

    file_name = "state.json"
    fix = "remove it; the next retraining then trains"

    run_id: str
    inputs: Inputs
    event: RetrainEvent
    text: str


class Promotion(Record):
    """promotion.json: the journal of a promotion or rollback under way, by version numbers."""

    file_name = "promotion.json"
    fix = "remove it, then check the aliases with `idxtrain models list`"

    champion: int
    previous: int | None
    is_rollback: bool
    best: BestChampion | None = None


class ComparedModel(Section):
    """A model that a challenger was compared with; `accuracy` is None if it could not be evaluated."""

    version: int
    run_id: str
    accuracy: float | None


class DecisionRecord(Section):
    """decision.json in the run: the gate's decision, and the models it compared. `version`: None until registered."""

    name: str
    run_id: str
    version: int | None
    champion: ComparedModel | None
    best: ComparedModel | None = None
    promote: bool
    reason: str
    checks: tuple[Check, ...]


class Notification(Record):
    """notification.json: the last outcome, until it is delivered. Its JSON is what --notify and the webhook get.

    After a failure only the first five keys are delivered.
    """

    file_name = "notification.json"
    fix = "remove it"

    id: str
    event: RetrainEvent
    name: str
    run_id: str | None
    reason: str
    version: int | None = None
    champion: ComparedModel | None = None
    checks: tuple[Check, ...] = ()
    accuracy: float | None = None
    errors: int | None = None
    count: int | None = None
    report: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return what is delivered."""
        keys = {"id", "event", "name", "run_id", "reason"} if self.event == "failed" else None
        return self.model_dump(mode="json", include=keys)


def validated(kind: type[S], raw: Mapping[str, Any], where: str, fix: str) -> S:
    """Return a record from its JSON object; raise InputError with `where` and the fix if its format is another."""
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise InputError(
            f"{where}: found another format ({one_line(error)}), expected that of this version; fix: {fix}"
        ) from error
