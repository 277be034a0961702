"""The footer of a Parquet file, unparsed."""

import os
from pathlib import Path

_PICKLE = b"dataset-toolkit.unischema"  # the key under which Petastorm stores a schema, as a pickle


def holds_pickle(path: Path) -> bool:
    """Return whether a file has Petastorm's own schema, a pickle that its readers would execute. Raises OSError.

    The footer lies before the last 8 bytes: its length and a magic number.
    """
    with path.open("rb") as file:
        end = file.seek(-8, os.SEEK_END)
        file.seek(max(0, end - int.from_bytes(file.read(4), "little")))
        return _PICKLE in file.read()
