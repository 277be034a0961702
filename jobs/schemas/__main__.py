"""python -m jobs.schemas [FOLDER]: write the JSON schemas of metrics.json and manifest.json.

FOLDER: by default the folder of this package.
"""

import sys
from pathlib import Path

from jobs.errors import InputError
from jobs.exit_codes import exit_codes
from jobs.schemas import FOLDER, write_schemas


def main() -> None:
    """Write the schemas and print the files."""
    if len(sys.argv) > 2:
        raise InputError(f"python -m jobs.schemas: found {len(sys.argv) - 1} arguments, expected at most one folder")
    for path in write_schemas(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER):
        print(path)


if __name__ == "__main__":
    with exit_codes():
        main()
