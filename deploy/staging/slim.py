"""python -m deploy.staging.slim ENVIRONMENT: remove the files of a virtual environment that no program needs.

`make setup SLIM=1` runs it: a cluster's home may allow few files. It needs nothing but Python. uv does not notice what
is missing; `make clean setup` brings it back.
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.staging.contents import unneeded


def slim(environment: Path) -> int:
    """Remove what no program needs from the packages of an environment; return the number of files that are left.

    Raises FileNotFoundError if there is no virtual environment.
    """
    (environment / "pyvenv.cfg").stat()
    for packages in environment.glob("lib/python*/site-packages"):
        for path in list(unneeded(packages)):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    return sum(not path.is_dir() for path in environment.rglob("*"))


def main(arguments: Sequence[str]) -> int:
    """Slim the environment that the command line names; return the exit code."""
    if len(arguments) != 1:
        print("usage: python -m deploy.staging.slim ENVIRONMENT", file=sys.stderr)
        return 2
    try:
        files = slim(Path(arguments[0]))
    except OSError as error:
        print(f"{error.filename}: {error.strerror}; fix: give a virtual environment", file=sys.stderr)
        return 2
    print(f"{arguments[0]}: {files:,} files, without tests, headers and sources for compilers")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
