"""All that decides a dataset: archives, options, what is known of the data set, and the files that options name."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs import dataset, segments
from jobs.archive import Archive, role_of_key
from jobs.dataset import Source
from jobs.description import Description
from jobs.errors import InputError
from jobs.files import sha256_file, sha256_json
from jobs.label_options import Column
from jobs.orientation import Orientation
from jobs.prepare.config import PrepareConfig

if TYPE_CHECKING:
    from jobs.prepare.idx import Header

_FILES = ("groups", "exclude")  # the options that name a file, which counts by its content


@dataclass(frozen=True)
class Inputs:
    """The inputs of the prepare stage. `archives`: by role, or by role and tag, see `jobs.segments`."""

    config: PrepareConfig
    archives: Mapping[str, Archive]
    description: Description

    @property
    def orientation(self) -> Orientation:
        """What turns the images upright: the option, else the description."""
        given = self.config.orientation
        return self.description.orientation if given == "auto" else given

    @property
    def label_column(self) -> Column:
        """Where the label is in label archives of several numbers per image: the option, else the description."""
        given = self.config.label_column
        return self.description.column if given is None else given

    @property
    def makes_test(self) -> bool:
        """Whether there is no test archive, so that training rows make the test split."""
        return _lacks_test(self.archives)

    @cached_property
    def files(self) -> dict[str, Source]:
        """The files that options name, by option. Raises InputError for one that cannot be read."""
        named = {option: getattr(self.config, option) for option in _FILES}
        return {option: _source(option, Path(path)) for option, path in named.items() if path}

    @property
    def sources(self) -> dict[str, Source]:
        """All files that the dataset is made from, by role or option."""
        archives = {
            role: Source(name=archive.path.name, bytes=archive.bytes, sha256=archive.sha256)
            for role, archive in self.archives.items()
        }
        return archives | self.files

    @property
    def dataset_id(self) -> str:
        """The 16 hex digits that name the dataset."""
        options: dict[str, Any] = self.config.content() | {
            "orientation": self.orientation,
            "label_column": self.label_column,
            "class_names": self.description.model_dump(mode="json")["class_names"],
        }
        if self.config.groups:
            options["group_rule"] = "stratified"  # another rule than before: the same options give other rows
        identity = {
            "format": dataset.FORMAT,
            "archives": {role: archive.sha256 for role, archive in self.archives.items()},
            "options": options | dict.fromkeys(_FILES),
            "files": {option: source.sha256 for option, source in self.files.items()},
        }
        pictures = {key: each.sha256 for key, each in self.description.pictures.items()}
        return sha256_json(identity | ({"pictures": pictures} if pictures else {}))[:16]

    def require_unchanged(self) -> None:
        """Raise InputError if a file that an option names is not the one that was hashed."""
        for option, source in self.files.items():
            if _source(option, Path(getattr(self.config, option))) != source:
                raise InputError(f"prepare.{option}: {source.name} changed while it was read; fix: run again")


def check_options(config: PrepareConfig, archives: Iterable[str]) -> None:
    """Raise InputError for options that do not fit the archives, given by role or by role and tag."""
    keys = list(archives)
    if config.test_rows is not None and not _lacks_test(keys):
        raise InputError(
            f"prepare.test_rows: found {config.test_rows} beside test archives, expected none; fix: leave it out, or "
            "move the test archives out of --data"
        )
    if segments.tags(keys) and config.groups:
        raise InputError(
            "prepare.groups: found a file for a data set of several training pairs, expected one pair; fix: leave it "
            "out, or give one pair"
        )


def check_pixels(config: PrepareConfig, headers: "Mapping[str, Header]") -> None:
    """Raise InputError if pixels are to be stored as bytes, but are none. `headers`: by role, or by role and tag."""
    for key, header in headers.items():
        if config.pixels == "uint8" and role_of_key(key).endswith("_images") and header.dtype != "u1":
            raise InputError(
                f"prepare.pixels: found uint8 for {key} {header}, expected archives of uint8; fix: leave it out"
            )


def _lacks_test(keys: Iterable[str]) -> bool:
    return not any(key.startswith("test") for key in keys)


def _source(option: str, path: Path) -> Source:
    try:
        return Source(name=path.name, bytes=path.stat().st_size, sha256=sha256_file(path))
    except OSError as error:
        raise InputError(
            f"prepare.{option}: {path}: cannot be read ({error.strerror}); fix: give the path of the file"
        ) from error
