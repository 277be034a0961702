"""The config section of the fetch stage: which data set, and where its archives may come from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from jobs.archive import ROLES, Role
from jobs.config import Section
from jobs.errors import InputError
from jobs.fetch.data_sets import names
from jobs.object_store import is_remote, require_url

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def url_problem(url: str) -> str | None:
    """Return why no archive is fetched from this URL, as the predicate of a sentence; None if it may be fetched.

    Allowed are https, and http from this machine itself.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # reading the port checks it
    except ValueError as error:
        return f"is not a URL: {error}"
    if not host or any(character.isspace() or not character.isprintable() for character in url):
        return "is not a URL such as https://example.org/mnist/"
    if parts.username is not None or parts.password is not None:
        return "carries a user name or password, which would be stored and logged"
    if parts.query or parts.fragment:
        return "has a query or a fragment; expected a base URL to which file names are appended"
    if parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK):
        return None
    return "is not https:// (http:// only from 127.0.0.1 or localhost)"


def mirror_url(url: str) -> str:
    """Return the URL; raise ValueError for one that no archive is fetched from."""
    problem = url_problem(url)
    if problem:
        raise ValueError(f"found {url!r}, which {problem}")
    return url


def _absolute(path: str) -> str:
    if path and ("\0" in path or not Path(path).is_absolute()):
        raise ValueError(f"found {path!r}, expected an absolute path")
    return path


_Path = Annotated[str, AfterValidator(_absolute)]


def require_on_disk(data: str) -> None:
    """Raise InputError for a remote folder, for commands that take none."""
    if is_remote(data):
        raise InputError(f"--data {data}: found a URL, expected a folder; fix: copy the archives to a folder")


def _folder(data: str) -> str:
    """Return an absolute path or a remote folder's URL; raise ValueError for another text."""
    return require_url(data) if is_remote(data) else _absolute(data)


_Folder = Annotated[str, AfterValidator(_folder)]


class FetchConfig(Section):
    """Which archives to use, and where to get them."""

    renamed: ClassVar[Mapping[str, str]] = {"parts": "segments"}

    dataset: str = Field(
        default="mnist",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=100,
        description=(
            f"Name of the data set: {', '.join(names())}; with `fetch.data`, any name for your own data. "
            "Same as `--dataset`."
        ),
    )
    data: _Folder = Field(
        default="",
        description=(
            "Absolute path of a folder with the archives, or its URL: s3://, s3a:// or hdfs://. Empty to download "
            "them. `--data` sets it."
        ),
    )
    train_images: _Path = Field(
        default="", description="Absolute path of the training images. `--train-images` sets it. Empty: found by name."
    )
    train_labels: _Path = Field(
        default="", description="Absolute path of the training labels. `--train-labels` sets it. Empty: found by name."
    )
    test_images: _Path = Field(
        default="", description="Absolute path of the test images. `--test-images` sets it. Empty: found by name."
    )
    test_labels: _Path = Field(
        default="", description="Absolute path of the test labels. `--test-labels` sets it. Empty: found by name."
    )
    class_names: _Path = Field(
        default="",
        description=(
            "Absolute path of a text file of class names, one per line, from label 0; or `LABEL NAME` lines; "
            "`LABEL,NAME` where names begin with numbers. `--classes` sets it. Empty: those of the data set."
        ),
    )
    mirrors: tuple[Annotated[str, AfterValidator(mirror_url)], ...] = Field(
        default=(),
        description="Base URLs to try before the data set's own mirrors: https, or http from this machine.",
    )
    timeout_seconds: float = Field(
        default=20, gt=0, le=600, description="Seconds that a connection or a read may take before the next mirror."
    )
    offline: bool = Field(
        default=False, description="Use no mirror, only local archives or the offline package; without these, fail."
    )
    segments: bool = Field(
        default=False,
        description=(
            "Decode each training pair as a segment of its own, even if there is only one. Then only pairs that are "
            "added later have to be decoded. Several pairs are always decoded this way. Set by `idxtrain retrain`."
        ),
    )

    @property
    def named_archives(self) -> dict[Role, Path]:
        """The archives that options name, by role."""
        return {role: Path(path) for role in ROLES if (path := getattr(self, role))}
