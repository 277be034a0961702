"""The config of a run: a recipe, then the options of the command line, as one frozen value."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from deploy.launcher.config import LaunchConfig
from jobs.config import Section, explain
from jobs.errors import InputError, one_line
from jobs.evaluate.config import EvaluateConfig
from jobs.fetch.config import FetchConfig
from jobs.prepare.config import PrepareConfig, SparkConfig
from jobs.train.config import TrainConfig
from pipelines import recipes
from pipelines.gate.config import GateConfig
from pipelines.names import safe_name

DEFAULT_RECIPE = "fast"


class Config(Section):
    """All of a run's options: each job's own section, and what they share."""

    recipe: str = Field(pattern=recipes.NAME)
    seed: int = Field(default=0, ge=0, lt=2**31)
    fetch: FetchConfig = FetchConfig()
    prepare: PrepareConfig = PrepareConfig()
    spark: SparkConfig = SparkConfig()
    train: TrainConfig
    evaluate: EvaluateConfig = EvaluateConfig()
    launch: LaunchConfig = LaunchConfig()
    gate: GateConfig = GateConfig()

    def to_json(self) -> dict[str, Any]:
        """Return the config as config.json has it."""
        return self.model_dump(mode="json")


def compose(recipe: str, settings: Mapping[str, Any], assignments: Sequence[str] = ()) -> Config:
    """Compose a config: the recipe, then `settings` (dotted key to value), then `assignments` ("section.key=value").

    Raises InputError naming the key, and the valid ones where it is unknown.
    """
    loaded = recipes.load(recipe)
    values: dict[str, Any] = {"recipe": loaded.name} | loaded.sections
    for key, value in settings.items():
        _put(values, key, value)
    assign(values, assignments, "--set", "train.epochs=3")
    return validate(values, f"recipe {loaded.name}")


def assign(values: dict[str, Any], assignments: Sequence[str], option: str, example: str) -> None:
    """Set values by assignments, "section.key=value"; raise InputError, naming the option, for what is none."""
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise InputError(f"{option} {assignment}: found no '=', expected section.key=value, e.g. {example}")
        _put(values, key.strip(), _parse(text.strip()), option)


def validate(values: Mapping[str, Any], origin: str) -> Config:
    """Return the config that these values make; raise InputError, naming `origin`, where they make none."""
    try:
        config = Config.model_validate(values)
        # TOML's hexadecimal may hold more digits than Python writes; text from anywhere, what is no Unicode.
        if Config.model_validate_json(json.dumps(config.to_json())) != config:
            raise ValueError("found text that is no Unicode")
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{origin}: {explain(Config, first)}") from error
    except ValueError as error:
        raise InputError(
            f"{origin}: cannot be written to config.json ({one_line(error)}); give other values"
        ) from error
    return config


def data_set_name(data: Path) -> str:
    """Return the name under which a folder of the user's own archives goes.

    Never a name of the catalog: only --dataset says that the files are to be that very data set.
    """
    from jobs.fetch.catalog import CATALOG

    name = safe_name(data.name, "data", 100)
    return f"local-{name}" if name in CATALOG else name


def differences(one: Config, other: Config) -> list[str]:
    """Return each key in which two configs differ, as `key: one's value, other's value`."""
    left, right = flat(one.to_json()), flat(other.to_json())
    return [
        f"{key}: {left.get(key)!r} there, {right.get(key)!r} here"
        for key in sorted(left.keys() | right.keys())
        if left.get(key) != right.get(key)
    ]


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values by dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def _put(values: dict[str, Any], key: str, value: Any, option: str = "--set") -> None:
    *sections, last = key.split(".")
    for section in sections:
        below = values.get(section, {})
        if not isinstance(below, dict):
            raise InputError(f"{option} {key}: {section} is a value, not a section")
        values[section] = values = below | {}
    values[last] = value


def _parse(text: str) -> Any:
    """Read a TOML value; `none` is None; anything else is a string, so that quotes are seldom needed."""
    if text.lower() == "none":
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # no TOML, or with too many digits, or nested too deep
        return text
