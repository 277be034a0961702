"""What a retraining depends on: if none of it changed, there is nothing to train."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from jobs import segments
from jobs.errors import InputError
from jobs.fetch.config import require_on_disk
from jobs.fetch.describe import described_by
from jobs.fetch.locate import locate
from jobs.files import sha256_file, sha256_json
from pipelines.config import Config
from pipelines.retraining.records import FileStamp

log = logging.getLogger("idxtrain")

# Keys of other files: those that describe the archives (and a number), and those of section prepare.
_DESCRIPTION, _EXCLUDE, _GROUPS = "description ", "exclude", "groups"


def archives(config: Config) -> dict[str, Path]:
    """Return the user's archives by `jobs.segments.key`, all pairs, and the other files that decide the dataset.

    No archives for a data set of the catalog. Raises InputError where the archives cannot be used.
    """
    named = {_EXCLUDE: config.prepare.exclude, _GROUPS: config.prepare.groups}
    others = {key: Path(path) for key, path in named.items() if path}
    for key, path in others.items():
        if not path.is_file():
            raise InputError(f"prepare.{key} {path}: found no such file; fix: correct the path")
    if not config.fetch.data and not config.fetch.named_archives:
        return others
    require_on_disk(config.fetch.data)
    described = {f"{_DESCRIPTION}{number}": path for number, path in enumerate(described_by(config.fetch))}
    return {**locate(config.fetch).archives, **described, **others}


def stamps(files: Iterable[Path]) -> tuple[FileStamp, ...]:
    """Return path, size in bytes and modification time in ns of each file."""
    return tuple(FileStamp(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)


def content_of(files: Mapping[str, Path]) -> str:
    """Return a hash of what the archives hold: the test pair, and each training pair once, whatever its name.

    `files`: as `archives` returns them. Logs each pair that is a copy of another one.
    """
    digests = {key: sha256_file(path) for key, path in files.items()}
    pairs: dict[tuple[str | None, str | None], str] = {}
    for tag in segments.tags(files):
        images, labels = (digests.get(segments.key(role, tag)) for role in ("train_images", "train_labels"))
        first = pairs.setdefault((images, labels), tag)
        if first != tag:
            log.warning("retrain: %s has the same content as %s; it counts once", _name(tag), _name(first))
    test = [digests.get(role) for role in ("test_images", "test_labels")]
    others = {key: digest for key, digest in digests.items() if key.startswith((_DESCRIPTION, _EXCLUDE, _GROUPS))}
    names = segments.tags(files) if _EXCLUDE in files else []  # that file names pairs by their tags
    return sha256_json({"test": test, "train": sorted(pairs, key=str), "others": others, "names": names})


def _name(tag: str) -> str:
    return f"pair {tag}" if tag else "the untagged pair"


def settings_of(config: Config) -> str:
    """Return a hash of the parts of the config that decide the model."""
    values = config.to_json()
    settings = {key: values[key] for key in ("recipe", "seed", "train")}
    return sha256_json(settings | {"prepare": config.prepare.content(), "dataset": config.fetch.dataset})
