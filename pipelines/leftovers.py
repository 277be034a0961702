"""Temporary files that killed processes left behind, recognized by their names and by their age."""

import os
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from jobs.run_dir import RunDir

_DEAD_SECONDS = 3600.0
# The names that jobs.files, jobs.lease, jobs.evaluate.parts and deploy.registry give to temporary files.
_TEMPORARY = re.compile(
    r"\.[0-9a-f]{8}\.tmp-.+|\.[0-9a-f]{16}\.lock|\.after-.+\.lock|\.\d+-.+\.keras|\.new-\d+\.db.*|\.[0-9a-f]{16}-(validation|test)-.+\.float32"
)


def is_dead(path: Path) -> bool:
    """Return whether a file or folder has not been modified for an hour."""
    with suppress(OSError):
        return time.time() - path.lstat().st_mtime > _DEAD_SECONDS
    return False


def in_folders(folders: Iterable[Path]) -> list[Path]:
    """Return the temporary files of dead processes in these folders, without subfolders, sorted per folder."""
    dead: list[Path] = []
    for folder in folders:
        with suppress(OSError):  # missing, or another user's
            dead += sorted(path for path in folder.iterdir() if _TEMPORARY.fullmatch(path.name) and is_dead(path))
    return dead


def of_run(run: RunDir) -> list[Path]:
    """Return the temporary files of dead processes in a run's folder and all folders below it."""
    return in_folders(Path(folder) for folder, _, _ in os.walk(run.path))
