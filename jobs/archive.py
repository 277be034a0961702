"""The contract between fetch and prepare: the archives of a data set, as the fetch stage records them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Split = Literal["train", "test"]
Kind = Literal["images", "labels"]
Role = Literal["train_images", "train_labels", "test_images", "test_labels"]
ROLES: tuple[Role, ...] = ("train_images", "train_labels", "test_images", "test_labels")
TRAINING, TEST = ROLES[:2], ROLES[2:]

GZIP_MAGIC = b"\x1f\x8b"
_LFS_POINTER = b"version https://git-lfs.github.com/spec/v1"


@dataclass(frozen=True, kw_only=True)
class Archive:
    """One IDX archive, plain or gzip. `bytes` and `sha256` are those of the file that fetch checked.

    `known`: the catalog's name of the data set whose checksum it has, e.g. "mnist"; None if no catalog lists it.
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


def role_for(split: Split, kind: Kind) -> Role:
    """Return the role of the images or labels of a split."""
    return next(role for role in ROLES if role == f"{split}_{kind}")


def role_of_key(key: str) -> Role:
    """Return the role of an archive from its key, which is the role, or role and tag (`jobs.segments.key`)."""
    return next(role for role in ROLES if key.startswith(role))


def is_gzip(path: Path) -> bool:
    """Return whether a file is gzip, judged by its first two bytes."""
    with path.open("rb") as file:
        return file.read(2) == GZIP_MAGIC


def is_git_lfs_pointer(path: Path) -> bool:
    """Return whether a file is what Git leaves for a large file that it has not downloaded. False if unreadable."""
    if not path.is_file():  # opening a named pipe would wait for its writer
        return False
    try:
        with path.open("rb") as file:
            return file.read(len(_LFS_POINTER)) == _LFS_POINTER
    except OSError:
        return False
