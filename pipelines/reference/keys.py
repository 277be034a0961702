"""Every key of the config and of a site, as the sections in code describe it: description, values, default."""

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic.fields import FieldInfo

from deploy.slurm.site import Site
from jobs.config import Section, expected, nearest
from jobs.errors import InputError
from pipelines import recipes
from pipelines.config import Config, compose

SITE = "site"  # the prefix of a site's keys in the reference; a site's file has none


@dataclass(frozen=True, kw_only=True)
class Key:
    """One key. `name`: dotted, in full. `values`: which are valid, in words. `default`: None if a value is required."""

    name: str
    description: str
    values: str
    default: str | None

    @property
    def last(self) -> str:
        """The key within its section."""
        return self.name.rpartition(".")[2]

    @property
    def is_of_site(self) -> bool:
        """Whether it is a key of a site, not of the config."""
        return self.name.startswith(f"{SITE}.")

    @property
    def setting(self) -> str:
        """How the command line sets it, as an example."""
        assignment = shlex.quote(f"{self.name.removeprefix(f'{SITE}.')}={self.default}")
        return f"{'--site-set' if self.is_of_site else '--set'} {assignment}"


@dataclass(frozen=True, kw_only=True)
class KeySection:
    """A section. `name`: dotted; empty for the keys that are in none. `renamed`: old key → new key."""

    name: str
    description: str
    keys: tuple[Key, ...]
    renamed: dict[str, str]


def config_sections() -> list[KeySection]:
    """Return the config's sections, in the order of `Config`."""
    return list(_sections(Config, "", "Keys that belong to no section."))


def site_sections() -> list[KeySection]:
    """Return a site's sections: the site's own keys, then those of its jobs."""
    return list(_sections(Site, SITE, "What jobs request on a cluster, and how they start there: see deploy/SITES.md."))


def all_sections() -> list[KeySection]:
    """Return the sections of config and site."""
    return [*config_sections(), *site_sections()]


def names() -> list[str]:
    """Return the names of all sections and keys, for the shell's completion."""
    sections = all_sections()
    return [section.name for section in sections if section.name] + [key.name for each in sections for key in each.keys]


def find(name: str) -> Key | list[KeySection]:
    """Return a key, or a section with those in it; raise InputError with the nearest name if there is neither."""
    sections = all_sections()
    by_name = {key.name: key for section in sections for key in section.keys}
    within, _, last = name.rpartition(".")
    if name in by_name:
        return by_name[name]
    matching = [section for section in sections if name and f"{section.name}.".startswith(f"{name}.")]
    if matching:
        return matching
    for section in sections:
        if section.name == within and last in section.renamed:
            raise InputError(f"{name}: renamed; expected {within}.{section.renamed[last]}")
    words = {key.last: key.name for key in reversed(by_name.values())} | {each: each for each in names()}
    near = nearest(name, words)
    hint = f"did you mean {words[near]}? " if near else ""
    raise InputError(f"{name}: found no such key or section; {hint}fix: list all with `idxtrain config`")


def values_of(recipe: str) -> dict[str, str]:
    """Return the value of each config key under a recipe, as text. Raises InputError if there is no such recipe."""
    config = compose(recipe, {})
    return {key.name: _text(_value(config, key.name)) for section in config_sections() for key in section.keys}


def recipes_that_set(key: Key) -> dict[str, str]:
    """Return the value of a config key under each recipe of the project that differs from the default."""
    values = {} if key.is_of_site else {name: values_of(name)[key.name] for name in recipes.names()}
    return {name: value for name, value in values.items() if value != key.default}


def _sections(kind: type[Section], name: str, description: str) -> Iterator[KeySection]:
    """Yield a section, then those in it."""
    prefix = f"{name}." if name else ""
    keys, below = [], []
    for last, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            below.append(_sections(field.annotation, prefix + last, field.description or ""))
        else:
            keys.append(_key(prefix + last, field))
    yield KeySection(name=name, description=description, keys=tuple(keys), renamed=dict(kind.renamed))
    for sections in below:
        yield from sections


def _key(name: str, field: FieldInfo) -> Key:
    return Key(
        name=name,
        description=field.description or "",
        values=expected(field.annotation, field.metadata),
        default=None if field.is_required() else _text(field.get_default(call_default_factory=True)),
    )


def _value(config: Section, name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _text(value: Any) -> str:
    """Return a value as `--set` takes it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value or '""'
    if isinstance(value, tuple):
        return json.dumps(value)
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(name)} = {json.dumps(each)}' for name, each in value.items())}}}"
    return f"{value:g}" if isinstance(value, float) else str(value)
