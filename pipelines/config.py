"""The config of a run: a recipe and the options of the command line, as one frozen value."""

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from datetime import date, time
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails

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
    """All options of a run: each job's own section, and what they share."""

    recipe: str = Field(
        pattern=recipes.NAME, description="Name of the recipe, set by `--recipe`. A recipe has the name of its file."
    )
    seed: int = Field(
        default=0,
        ge=0,
        lt=2**31,
        description="Seed of initial weights, row order, dropout and augmentation. Same as `--seed`.",
    )
    fetch: FetchConfig = Field(default=FetchConfig(), description="Which archives to use, and where to get them.")
    prepare: PrepareConfig = Field(
        default=PrepareConfig(), description="How the archives become a dataset. Each key is part of the dataset's ID."
    )
    spark: SparkConfig = Field(default=SparkConfig(), description="Where Spark runs. No key changes the dataset.")
    train: TrainConfig = Field(
        description="How the model is trained. All sizes are global: they do not depend on the number of ranks."
    )
    evaluate: EvaluateConfig = Field(
        default=EvaluateConfig(), description="How the model is tested. No key changes which images count."
    )
    launch: LaunchConfig = Field(
        default=LaunchConfig(),
        description="How many ranks train, and what happens when one fails. A resumed run may change these keys.",
    )
    gate: GateConfig = Field(
        default=GateConfig(),
        description="What `idxtrain retrain` demands before it promotes a model. A resumed run may change these keys.",
    )

    def to_json(self) -> dict[str, Any]:
        """Return the config as config.json has it."""
        return self.model_dump(mode="json")


def compose(recipe: str, settings: Mapping[str, Any], assignments: Sequence[str] = ()) -> Config:
    """Compose a config: the recipe, then `settings` (dotted key to value), then `assignments` ("section.key=value").

    Raises InputError naming the recipe or --set and the key; if the key is unknown, also the valid ones.
    """
    loaded = recipes.load(recipe)
    values: dict[str, Any] = {"recipe": loaded.name} | loaded.sections
    for key, value in settings.items():
        _put(values, key, value)
    assigned = assign(values, assignments, "--set", "train.epochs=3")
    _drop_floors(values, [*settings, *assigned])
    origin = recipe if recipe.endswith(".toml") else f"recipe {loaded.name}"
    return validate(values, origin, dict.fromkeys(assigned, "--set"))


def _drop_floors(values: dict[str, Any], given: Sequence[str]) -> None:
    """Drop a recipe's floor of a key that an option gives alone: `--set train.epochs=2` is two epochs."""
    for key, floor in TrainConfig.floors.items():
        if f"train.{key}" in given and f"train.{floor}" not in given:
            _put(values, f"train.{floor}", None)


def assign(values: dict[str, Any], assignments: Sequence[str], option: str, example: str) -> list[str]:
    """Set values by assignments, "section.key=value"; return the keys, dotted.

    Raises InputError, naming the option and an example, for text that is not an assignment.
    """
    keys = []
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise InputError(f"{option} {assignment}: found no '=', expected section.key=value, e.g. {example}")
        keys.append(key.strip())
        _put(values, key.strip(), _parse(text.strip()), option)
    return keys


def validate(values: Mapping[str, Any], origin: str, options: Mapping[str, str] | None = None) -> Config:
    """Return the config with these values.

    Raises InputError if they are not valid, naming `origin`: the file or recipe they come from. `options`: dotted key
    to the option that set it, which an error of that key names instead.
    """
    try:
        config = Config.model_validate(values)
        # A TOML hexadecimal may hold more digits than Python writes; text from the outside may not be Unicode.
        if Config.model_validate_json(json.dumps(config.to_json())) != config:
            raise ValueError("found text that is not Unicode")
    except ValidationError as error:
        first = error.errors()[0]
        option = _option_of(first, options or {})
        raise InputError((f"{option} " if option else f"{origin}: ") + explain(Config, first)) from error
    except ValueError as error:
        raise InputError(
            f"{origin}: cannot be written to config.json ({one_line(error)}); fix: give other values"
        ) from error
    return config


def _option_of(error: ErrorDetails, options: Mapping[str, str]) -> str | None:
    """Return the option that set an error's key or a key above it or, for a section, a key that the message names."""
    at = f"{'.'.join(map(str, error['loc']))}."
    for key, option in options.items():
        # A section's own check may concern other keys of the section than the option's.
        is_named = error["type"] != "value_error" or re.search(
            rf"\b{re.escape(key.rpartition('.')[2])}\b", error["msg"]
        )
        if at.startswith(f"{key}.") or (f"{key}.".startswith(at) and is_named):
            return option
    return None


def data_set_name(data: Path) -> str:
    """Return the data set's name for a folder of the user's own archives.

    It is never a name of the catalog: only --dataset declares the files to be that very data set.
    """
    from jobs.fetch.catalog import CATALOG

    name = safe_name(data.name, "data", 100)
    return f"local-{name}" if name in CATALOG else name


def differences(one: Config, other: Config) -> list[str]:
    """Return each key in which two configs differ, as `key: one's value in the run, other's value now`."""
    left, right = flat(one.to_json()), flat(other.to_json())
    return [
        f"{key}: {left.get(key)!r} in the run, {right.get(key)!r} now"
        for key in sorted(left.keys() | right.keys())
        if left.get(key) != right.get(key)
    ]


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values by dotted keys."""
    by_key: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            by_key |= flat(value, f"{prefix}{key}.")
        else:
            by_key[prefix + key] = value
    return by_key


def _put(values: dict[str, Any], key: str, value: Any, option: str = "--set") -> None:
    *sections, last = key.split(".")
    for section in sections:
        below = values.get(section, {})
        if not isinstance(below, dict):
            raise InputError(f"{option} {key}: found {section}, a key with a value, expected a section")
        values[section] = values = below | {}
    values[last] = value


def _parse(text: str) -> Any:
    """Return a TOML value; `none` is None; anything else is a string, so that quotes are seldom needed.

    A time is a string, too: no key is of that type, and a site's time limit reads like one, e.g. 00:30:00.
    """
    if text.lower() == "none":
        return None
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # not TOML, too many digits, or nested too deep
        return text
    return text if isinstance(value, date | time) else value  # a datetime is a date
