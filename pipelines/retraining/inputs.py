"""What a retraining depends on: if none of it changed, there is nothing to train."""

from collections.abc import Sequence
from pathlib import Path

from jobs.fetch.describe import described_by
from jobs.fetch.locate import locate
from jobs.files import sha256_file, sha256_json
from pipelines.config import Config
from pipelines.retraining.records import FileStamp


def archives(config: Config) -> list[Path]:
    """Return the user's archives, all pairs, and the files that describe them; none for a data set of the catalog.

    Raises InputError where they cannot be used.
    """
    if not config.fetch.data and not config.fetch.named_archives:
        return []
    return [*locate(config.fetch).archives.values(), *described_by(config.fetch)]


def stamps(files: Sequence[Path]) -> tuple[FileStamp, ...]:
    """Return path, size in bytes and modification time in ns of each file."""
    return tuple(FileStamp(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)


def content_of(files: Sequence[Path]) -> str:
    """Return a hash of the files' names and content."""
    return sha256_json(sorted([file.parent.name, file.name, sha256_file(file)] for file in files))


def settings_of(config: Config) -> str:
    """Return a hash of the parts of the config that decide the model."""
    values = config.to_json()
    settings = {key: values[key] for key in ("recipe", "seed", "prepare", "train")}
    return sha256_json(settings | {"dataset": config.fetch.dataset})
