"""Real data that tests use where they find it: Debian's Fashion-MNIST, and folders beside the checkout."""

import os
from pathlib import Path

import pytest

FASHION = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package dataset-fashion-mnist puts it
_FOLDER = Path(os.environ.get("IDXTRAIN_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))


def real_data(name: str) -> Path:
    """Return a file or folder of the test data; skip the test if it is not here."""
    path = _FOLDER / name
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return path


def fashion() -> Path:
    """Return the folder of Debian's Fashion-MNIST; skip the test if it is not installed, and fail it under CI=true."""
    if not FASHION.exists():
        if os.environ.get("CI") == "true":
            pytest.fail(f"{FASHION} is not here: dataset-fashion-mnist is not installed")
        pytest.skip(f"{FASHION} is not here: dataset-fashion-mnist is not installed")
    return FASHION
