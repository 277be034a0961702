"""HTML pages for people, each one self-contained file, from a Jinja template."""

import os
from pathlib import Path
from typing import Any

from jobs.files import write_atomic


def template(path: Path, *parts: Path, **filters: Any) -> Any:
    """Return the Jinja template in a file. It escapes every text, and an unknown name in it is an error.

    `parts`: further folders of templates that it may include.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([path.parent, *parts]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment.get_template(path.name)


def write_private(path: Path, page: str) -> None:
    """Write a page atomically, readable by its owner alone: it may show images of the data."""

    def write(temporary: Path) -> None:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 (a descriptor, not a path)
            file.write(page)

    write_atomic(path, write)
