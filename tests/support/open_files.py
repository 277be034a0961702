"""Which files other users may access, by their permissions."""

from pathlib import Path


def allowed(folder: Path, bits: int) -> list[str]:
    """Return mode and path of the folder and everything below whose mode has one of these bits; links are skipped."""
    paths = [path for path in (folder, *folder.rglob("*")) if not path.is_symlink()]
    return [f"{path.lstat().st_mode & 0o7777:04o} {path}" for path in paths if path.lstat().st_mode & bits]
