"""Arrays in files, which stay on the disk until they are used, and leave memory again when others need it."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def mapped(path: Path, dtype: np.dtype[Any], width: int | None = None) -> NDArray[Any]:
    """Return the values in a file, read-only: [n], or [n, width] if a width is given."""
    if not path.stat().st_size:  # nothing to map
        return np.empty(0 if width is None else (0, width), dtype)
    values = np.memmap(path, dtype, "r")
    return values if width is None else values.reshape(-1, width)
