"""The bin of a work folder: what is being removed. A removal is one rename, so a kill leaves a folder whole or gone."""

import secrets
from pathlib import Path

from jobs.run_dir import Work


def move_away(work: Work, folder: Path) -> Path:
    """Move a folder to the bin; return its place there, from which the caller deletes it."""
    work.bin.mkdir(mode=0o700, exist_ok=True)
    return folder.rename(work.bin / f"{secrets.token_hex(4)}-{folder.name}")
