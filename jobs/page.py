"""Pages for people, each one file that needs nothing but itself: from a Jinja template to HTML on disk."""

import os
from pathlib import Path
from typing import Any

from jobs.files import write_atomic


def template(path: Path, **filters: Any) -> Any:
    """Return the template of that file; every text put into it is escaped, and a name it lacks is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(path.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment.get_template(path.name)


def write_private(path: Path, page: str) -> None:
    """Write a page, whole or not at all, readable by its owner alone: it may show images of the data."""

    def write(temporary: Path) -> None:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 (a descriptor, not a path)
            file.write(page)

    write_atomic(path, write)
