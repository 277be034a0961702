"""Two models' predictions on the same images. No TensorFlow and no NumPy, as the gate reads it too."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


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
