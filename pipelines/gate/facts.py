"""What the gate decides on: facts about the challenger, its data and the champion."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jobs.evaluate.comparison import Paired


@dataclass(frozen=True)
class DataFacts:
    """What drift is judged by: of a whole training split, or of one archive pair's.

    `label_counts`: of each class. `mean`, `std`: of the normalized pixels, in [0, 1].
    """

    name: str
    shape: tuple[int, ...]
    classes: int
    label_counts: tuple[int, ...]
    mean: float
    std: float

    def to_json(self) -> dict[str, Any]:
        """Return the facts as a JSON object."""
        return asdict(self) | {"shape": list(self.shape), "label_counts": list(self.label_counts)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "DataFacts":
        """Read what `to_json` wrote; raises KeyError, TypeError or ValueError where it did not."""
        return cls(
            str(value["name"]),
            tuple(int(size) for size in value["shape"]),
            int(value["classes"]),
            tuple(int(count) for count in value["label_counts"]),
            float(value["mean"]),
            float(value["std"]),
        )


@dataclass(frozen=True)
class ModelFacts:
    """What is known of the challenger's file. `difference`: the largest of any probability, after loading it anew,
    from evaluation's; None where it could not be loaded, for the reason in `fault`.
    """

    bytes: int
    latency_ms: float | None
    difference: float | None
    fault: str = ""


@dataclass(frozen=True)
class Evidence:
    """All that the gate looks at. `test`: the challenger's `test` object of metrics.json.

    `paired`: None where there is no champion, or where it cannot be compared, for the reason in `incomparable`.
    `best`: against the best champion so far, where that is another one than the champion; `best_name` names it.
    `data`: the challenger's training split, then the archive pairs that are new to the champion.
    `test_images_in_training`: how many test images are in the challenger's training data, too; None: not known.
    """

    test: Mapping[str, Any]
    model: ModelFacts
    data: Sequence[DataFacts]
    champion_data: DataFacts | None = None
    paired: Paired | None = None
    incomparable: str = ""
    best: Paired | None = None
    best_name: str = ""
    test_images_in_training: int | None = None
