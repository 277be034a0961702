"""What of a folder other users may do something with, by its permissions."""

from pathlib import Path


def allowed(folder: Path, bits: int) -> list[str]:
    """Return the folder, and all below it, whose mode has one of these bits; links count for nothing."""
    found = [path for path in (folder, *folder.rglob("*")) if not path.is_symlink()]
    return [f"{path.lstat().st_mode & 0o7777:04o} {path}" for path in found if path.lstat().st_mode & bits]
