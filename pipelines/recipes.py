"""Recipes: named experiments, a TOML file each, with what they cost and what to expect."""

import tomllib
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from jobs.config import Section
from jobs.errors import InputError, one_line
from pipelines.names import safe_name

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,59}$"  # it is part of run IDs, of paths, and of the names of a cluster's jobs
_FOLDER = Path(__file__).with_name("recipes")


class About(Section):
    """What a recipe says of itself. `images`: how many it trains on; `time`: on which machine."""

    summary: str
    source: str
    expected: str
    images: int = Field(ge=1)
    time: str
    command: str


@dataclass(frozen=True)
class Recipe:
    """A recipe: its name, what it says of itself, and the config sections it sets."""

    name: str
    about: About
    sections: dict[str, Any]
    text: str


def names() -> list[str]:
    """Return the names of the recipes that come with the project."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def load(name: str) -> Recipe:
    """Load a recipe by name, or by the path of a .toml file, whose stem is made a name.

    Raises InputError where it is none, names itself, or holds characters that a terminal would obey.
    """
    path = Path(name) if name.endswith(".toml") else _FOLDER / f"{name}.toml"
    if not name.endswith(".toml") and name not in names():
        raise InputError(
            f"--recipe {name}: found no such recipe, expected one of {', '.join(names())}, or a .toml file"
        )
    try:
        text = path.read_text(encoding="utf-8")
        sections = tomllib.loads(text)
        about = About.model_validate(sections.pop("about", {}))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a recipe or a file that is there") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not a recipe: {one_line(error)}; see `idxtrain recipes show fast`") from error
    if "recipe" in sections:
        raise InputError(f"{path}: found the key recipe, expected none; fix: remove it, a recipe is named by its file")
    control = next((c for c in text if unicodedata.category(c) == "Cc" and c not in "\n\r\t"), None)
    if control is not None:
        raise InputError(f"{path}: found the control character {control!r}, expected plain text; fix: remove it")
    return Recipe(safe_name(path.stem, "recipe", 60), about, sections, text)
