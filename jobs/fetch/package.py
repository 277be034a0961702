"""Archives that a package of the operating system has installed in a folder. They are used in place."""

from pathlib import Path

from jobs.archive import Role
from jobs.fetch.data_set import KnownArchive, Package
from jobs.fetch.identify import mismatch
from jobs.fetch.source import SourceDownError, SourceError


class PackageFolder:
    """A source that needs no network. Its .gz files may be compressed again: the MD5 of the content decides."""

    def __init__(self, package: Package) -> None:
        self.name = package.name
        self._folder = Path(package.folder)

    @property
    def is_installed(self) -> bool:
        """Whether the package's folder is here."""
        return self._folder.is_dir()

    def get(self, role: Role, archive: KnownArchive, directory: Path) -> Path:
        """Return the archive in the package's folder; raise SourceError if it is missing or another file."""
        if not self.is_installed:
            raise SourceDownError("is not installed")
        path = next((p for p in (self._folder / archive.name, self._folder / archive.gz_name) if p.is_file()), None)
        if path is None:
            raise SourceError(f"has no {archive.gz_name} in {self._folder}")
        try:
            problem = mismatch(path, archive)
        except OSError as error:
            raise SourceError(f"{path} cannot be read ({error.strerror})") from error
        if problem:
            raise SourceError(f"{path}: {problem}")
        return path
