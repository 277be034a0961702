"""What is known of a data set: one TOML file, of the same form for the catalog's and for a user's own `data.toml`.

    title = "Letters of our archive"
    class_names = ["a", "b"]              # by label from 0; or a table, label = "name"; or the name of a text file
    orientation = "transpose"             # what turns the stored images upright; default: none
    [archives.train_images]
    name = "letters-train.idx"            # relative to the folder of the file

All keys are optional. Archives that the file does not name are found by their names.
"""

import tomllib
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError, model_validator

from jobs.archive import Role
from jobs.config import Section, explain
from jobs.errors import InputError, one_line
from jobs.fetch.class_names import by_label, read_class_names
from jobs.fetch.config import mirror_url
from jobs.orientation import Orientation

FILE = "data.toml"  # in a user's folder
_MD5 = r"^[0-9a-f]{32}$"
_LARGEST = 1 << 20  # bytes of a file


def _inside(name: str) -> str:
    """Return the name of a file in the folder; raise ValueError for a path that leads out of it."""
    if not name or Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
        raise ValueError(f"found {name!r}, expected the name of a file in the same folder")
    return name


class KnownArchive(Section):
    """One archive of a data set."""

    name: Annotated[str, AfterValidator(_inside)] = Field(
        description="Name of the plain file; mirrors serve it with .gz."
    )
    shape: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(), description="Sizes in its header.")
    md5: str | None = Field(default=None, pattern=_MD5, description="MD5 of the content.")
    gz_md5: str | None = Field(default=None, pattern=_MD5, description="MD5 of the .gz that mirrors serve.")
    gz_bytes: int | None = Field(default=None, ge=1, description="Size of that .gz.")
    hint: str = Field(default="", description="What to do where it does not fit the other archive of its pair.")

    @property
    def gz_name(self) -> str:
        """The file name on mirrors."""
        return f"{self.name}.gz"

    @property
    def bytes(self) -> int:
        """Length of the plain archive, if its values are bytes: its header, then the values."""
        return 4 + 4 * len(self.shape) + prod(self.shape)

    @property
    def has_checksum(self) -> bool:
        """Whether any checksum is known."""
        return self.md5 is not None or self.gz_md5 is not None


class Package(Section):
    """A package of the operating system that installs the archives in a folder."""

    name: str = Field(description="Name in messages.")
    folder: str = Field(pattern="^/", description="Folder with the archives.")
    install: str = Field(description="Command that installs it.")


class DataSet(Section):
    """A data set: what it is, and where its archives come from."""

    name: str = Field(default="", description="Name for --dataset: that of its file.")
    title: str = Field(default="", description="What it is, in a few words.")
    source: str = Field(default="", description="Where it was published.")
    licence: str = Field(default="", description="Its licence, in one line.")
    class_names: Mapping[int, str] = Field(
        default_factory=dict, description="Class names: a list from label 0, a table by label, or a text file."
    )
    orientation: Orientation = Field(default="none", description="What turns the stored images upright.")
    label_column: int = Field(default=0, ge=0, description="Column of the label in label archives of columns (idx2).")
    archives: Mapping[Role, KnownArchive] = Field(default_factory=dict, description="Its archives by role.")
    mirrors: tuple[Annotated[str, AfterValidator(mirror_url)], ...] = Field(
        default=(), description="Base URLs that serve its .gz files."
    )
    package: Package | None = Field(default=None, description="The package of an operating system that has it.")
    how_to_get: str = Field(default="", description="How to get it where there is no mirror.")

    @model_validator(mode="after")
    def _check_mirrors(self) -> "DataSet":
        unchecked = [each.name for each in self.archives.values() if each.gz_md5 is None]
        if self.mirrors and unchecked:
            raise ValueError(f"mirrors: found no gz_md5 of {unchecked[0]}, expected one for each archive")
        return self

    def says(self, key: str) -> bool:
        """Return whether the file sets a key: a default says nothing."""
        return key in self.model_fields_set


def read_data_set(path: Path, name: str = "") -> DataSet:
    """Read a data set's TOML file. Raises InputError, naming the file and the key."""
    values = _values(path)
    values["class_names"] = _class_names(values.get("class_names", {}), path)
    try:
        return DataSet.model_validate(values | {"name": name})
    except ValidationError as error:
        raise InputError(f"{path}: {explain(DataSet, error.errors()[0])}; fix: correct the file") from error


def files_of(path: Path) -> list[Path]:
    """Return the files that a data set's TOML file consists of: itself, and the text file of its class names."""
    names = _values(path).get("class_names")
    return [path, path.parent / names] if isinstance(names, str) else [path]


def _values(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST:
            raise InputError(f"{path}: found {path.stat().st_size} bytes, expected at most {_LARGEST}; fix: shorten it")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); fix: correct its permissions") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not TOML ({one_line(error)}); fix: correct the file") from error


def _class_names(value: Any, path: Path) -> Mapping[int, str]:
    """Return names by label, from a list, a table, or the name of a file beside `path`."""
    if isinstance(value, str):
        try:
            return read_class_names(path.parent / _inside(value))
        except ValueError as error:
            raise InputError(f"{path}: class_names: {error}; fix: correct it") from None
    items = dict(enumerate(value)) if isinstance(value, list) else value
    if not isinstance(items, dict):
        raise InputError(f"{path}: class_names: found {value!r}, expected a list, a table or a file; fix: correct it")
    return by_label(items.items(), f"{path}: class_names")
