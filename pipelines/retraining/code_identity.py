"""The identity of the code that makes a model."""

import hashlib
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_ROOMS = ("pipelines", "deploy", "jobs", "models")


def code_identity() -> str:
    """Return the SHA-256 of the names and contents of this project's source files."""
    digest = hashlib.sha256()
    for path in sorted(path for room in _ROOMS for path in (_ROOT / room).rglob("*.py")):
        digest.update(str(path.relative_to(_ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
