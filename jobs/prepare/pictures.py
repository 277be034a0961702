"""Write the names of the pictures that archives were made of into a dataset: see `jobs.pictures`."""

import csv
from collections.abc import Mapping
from pathlib import Path

from jobs.description import PictureList
from jobs.errors import InputError, printable
from jobs.files import sha256_file, write_atomic
from jobs.pictures import OPTION, PICTURES


def write_pictures(directory: Path, lists: Mapping[str, PictureList]) -> dict[str, str]:
    """Write the lists into a dataset; return what its manifest's options say of them, nothing without lists.

    `lists`: by the key of the image archive. Raises InputError if one is not the one that fetch recorded.
    """
    if not lists:
        return {}
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("archive", pa.string()), ("row", pa.int64()), ("path", pa.string())])

    def write(temporary: Path) -> None:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for key, each in lists.items():
                paths = _paths(each)
                columns = {"archive": [key] * len(paths), "row": list(range(len(paths))), "path": paths}
                writer.write_table(pa.table(columns, schema))

    write_atomic(directory / PICTURES, write)
    return {OPTION: sha256_file(directory / PICTURES)}


def _paths(each: PictureList) -> list[str]:
    """Return the paths of an archive's pictures, in the order of its rows; fetch has checked that there are no gaps."""
    try:
        if sha256_file(each.path) != each.sha256:
            raise InputError(f"{each.path}: found another content than fetch did, expected the same; fix: run again")
        with each.path.open(encoding="utf-8", newline="") as text:
            return [printable(path) for name, _, path in csv.reader(text) if name == each.archive]
    except OSError as error:
        raise InputError(f"{each.path}: cannot be read ({error.strerror}); fix: run again") from error
