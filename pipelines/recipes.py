"""Recipes: named experiments, one TOML file each, with their cost and expected result."""

import tomllib
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from jobs.config import Section, nearest
from jobs.errors import InputError, one_line
from pipelines.names import safe_name

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,59}$"  # part of run IDs, paths and Slurm job names
_FOLDER = Path(__file__).with_name("recipes")


class About(Section):
    """A recipe's [about] table, which your own recipe may leave out or fill in part.

    `images`: number of training images seen, 0 if not stated; `time`: how long, on which machine.
    """

    summary: str = ""
    source: str = ""
    expected: str = ""
    images: int = Field(default=0, ge=0)
    time: str = ""
    command: str = ""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A recipe: its name, its description, the config sections it sets, and the text of its file."""

    name: str
    about: About
    sections: dict[str, Any]
    text: str


def names() -> list[str]:
    """Return the names of the project's own recipes, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def load(name: str) -> Recipe:
    """Load a recipe by name, or from a .toml file, whose stem becomes its name.

    Raises InputError for an unknown name, an invalid file, a key `recipe`, or control characters.
    """
    path = Path(name) if name.endswith(".toml") else _FOLDER / f"{name}.toml"
    if not name.endswith(".toml") and name not in names():
        near = nearest(name, names())
        raise InputError(
            f"--recipe {name}: found no such recipe; {f'did you mean {near}? ' if near else ''}expected one of "
            f"{', '.join(names())}, or a .toml file"
        )
    try:
        text = path.read_text(encoding="utf-8")
        sections = tomllib.loads(text)
        about = About.model_validate(sections.pop("about", {}))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); fix: name a recipe or a .toml file") from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: is not a recipe: {one_line(error)}; fix: see `idxtrain recipes show fast`"
        ) from error
    if "recipe" in sections:
        raise InputError(
            f"{path}: found the key recipe, expected none; fix: remove it, the file name is the recipe's name"
        )
    control = next((c for c in text if unicodedata.category(c) == "Cc" and c not in "\n\r\t"), None)
    if control is not None:
        raise InputError(f"{path}: found the control character {control!r}, expected plain text; fix: remove it")
    return Recipe(name=safe_name(path.stem, "recipe", 60), about=about, sections=sections, text=text)
