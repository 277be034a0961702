"""The interface of the places that archives come from."""

from pathlib import Path
from typing import Protocol

from jobs.archive import Role
from jobs.fetch.data_set import KnownArchive


class SourceError(Exception):
    """A source did not deliver one archive. The message is the reason, on one line."""


class SourceDownError(SourceError):
    """A source will deliver no other archive either: it does not answer, or is not installed."""


class Source(Protocol):
    """A place that archives of the catalog come from."""

    @property
    def name(self) -> str:
        """The source's name in messages."""

    def get(self, role: Role, archive: KnownArchive, directory: Path) -> Path:
        """Return the archive, in the directory or where the source has it; raise SourceError if it is another file."""
