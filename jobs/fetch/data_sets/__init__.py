"""The data sets that idxtrain knows by name: one TOML file each, of the same form as a user's own `data.toml`."""

from pathlib import Path

_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Return the names of all data sets. Reads no file, so `idxtrain --help` stays fast."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def path_of(name: str) -> Path:
    """Return the file of a data set, which may not exist."""
    return _FOLDER / f"{name}.toml"
