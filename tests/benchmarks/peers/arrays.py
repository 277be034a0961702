"""Read the four .gz archives as arrays, as a short script would."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def load(folder: Path, split: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return images float32 [rows, 28, 28, 1] in [0, 1] and labels int64 [rows]. `split`: "train" or "t10k"."""
    with gzip.open(next(folder.glob(f"{split}-images-idx3-ubyte*"))) as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28, 1)
    with gzip.open(next(folder.glob(f"{split}-labels-idx1-ubyte*"))) as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    return images / np.float32(255), labels.astype(np.int64)
