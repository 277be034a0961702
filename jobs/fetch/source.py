"""What every place that archives come from has in common."""

from pathlib import Path
from typing import Protocol

from jobs.archive import Role
from jobs.fetch.catalog import KnownArchive


class SourceError(Exception):
    """A source did not give one archive. The message is the reason, on one line."""


class SourceDownError(SourceError):
    """A source will give no other archive either: nothing answers there, or it is not installed."""


class Source(Protocol):
    """A place that archives of the catalog come from."""

    @property
    def name(self) -> str:
        """What messages call the source."""

    def get(self, role: Role, archive: KnownArchive, directory: Path) -> Path:
        """Put the archive, its checksum checked, into the directory; raise SourceError where that fails."""
