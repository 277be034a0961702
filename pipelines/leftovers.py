"""What killed processes leave: temporary files, told by their names and by how long nobody has touched them."""

import os
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from jobs.run_dir import RunDir

_DEAD_SECONDS = 3600.0
# See jobs.files, jobs.lease and deploy.registry.registry.
_TEMPORARY = re.compile(r"\.[0-9a-f]{8}\.tmp-.+|\.[0-9a-f]{16}\.lock|\.after-.+\.lock|\.\d+-.+\.keras|\.new-\d+\.db.*")


def is_dead(path: Path) -> bool:
    """Tell whether nobody has touched a file or folder for an hour."""
    with suppress(OSError):
        return time.time() - path.lstat().st_mtime > _DEAD_SECONDS
    return False


def in_folders(folders: Iterable[Path]) -> list[Path]:
    """Return the temporary files of dead processes that lie in these folders, sorted; not of those below them."""
    found: list[Path] = []
    for folder in folders:
        with suppress(OSError):  # it is not there, or is another user's
            found += sorted(path for path in folder.iterdir() if _TEMPORARY.fullmatch(path.name) and is_dead(path))
    return found


def of_run(run: RunDir) -> list[Path]:
    """Return the temporary files of dead processes that lie in a run's folder and those below it."""
    return in_folders(Path(folder) for folder, _, _ in os.walk(run.path))
