"""The contract between fetch and prepare: the four archives of a data set, as the fetch stage's record lists them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Role = Literal["train_images", "train_labels", "test_images", "test_labels"]
ROLES: tuple[Role, ...] = ("train_images", "train_labels", "test_images", "test_labels")


@dataclass(frozen=True)
class Archive:
    """One IDX archive, plain or gzip, with the size in bytes and the SHA-256 it had when it was checked.

    `known`: the catalog's name for the data set it belongs to by checksum, e.g. "mnist"; None if in no catalog.
    """

    role: Role
    path: Path
    bytes: int
    sha256: str
    known: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the archive as a JSON object."""
        return asdict(self) | {"path": str(self.path)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Archive":
        """Read what `to_json` wrote."""
        return cls(**(dict(value) | {"path": Path(value["path"])}))
