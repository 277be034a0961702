"""What comparison.json holds: two models' predictions on the same images, and drift of new training pairs.

No TensorFlow and no NumPy, as the gate reads it too.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

EXCHANGES = 9_999  # of a permutation test, which takes a second: its smallest p-value is 1 in 10,000


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Numbers of images by which of two models predicts them correctly."""

    both: int
    only_champion: int
    only_challenger: int
    neither: int

    @property
    def count(self) -> int:
        """Number of all images."""
        return self.both + self.only_champion + self.only_challenger + self.neither

    def to_json(self) -> dict[str, int]:
        """Return the table as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Paired":
        """Read what `to_json` wrote."""
        return cls(**{key: int(number) for key, number in value.items()})


@dataclass(frozen=True, kw_only=True)
class FeatureDrift:
    """How far a new training pair, named by its tag, is from the champion's data: see `jobs.evaluate.drift`.

    `images`: of the pair that were compared. `distance`: the maximum mean discrepancy of the champion's features, from
    0 to the square root of 2. `p_value`: the probability of such a distance or more without drift, in (0, 1].
    """

    tag: str
    images: int
    distance: float
    p_value: float
