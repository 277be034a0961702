"""The interface of the places that archives come from."""

from pathlib import Path
from typing import Protocol

from jobs.archive import Role
from jobs.fetch.catalog import KnownArchive


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
        """Put the archive into the directory, after checking its checksum; raise SourceError if that fails."""
