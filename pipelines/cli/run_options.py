"""The options that describe a run, for every command that takes them: one definition, one order, one meaning."""

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any

from jobs.archive import ROLES
from pipelines.cli.options import (
    Assignments,
    Classes,
    Data,
    Dataset,
    Np,
    Recipe,
    RunId,
    Seed,
    SparkMaster,
    TestImages,
    TestLabels,
    TrainImages,
    TrainLabels,
    WorkFolder,
)
from pipelines.names import WORK

if TYPE_CHECKING:
    from pipelines.request import Options

# In the order of the help; all but `work` are None by default.
_KINDS: Mapping[str, Any] = {
    "data": Data,
    "dataset": Dataset,
    "train_images": TrainImages,
    "train_labels": TrainLabels,
    "test_images": TestImages,
    "test_labels": TestLabels,
    "classes": Classes,
    "recipe": Recipe,
    "np": Np,
    "assignments": Assignments,
    "seed": Seed,
    "spark_master": SparkMaster,
    "work": WorkFolder,
    "run_id": RunId,
}


def describes_run(*left_out: str, **other: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command: in place of its argument `options` it takes the options that describe a run.

    The command gets them as `pipelines.request.Options`. `left_out`: names of those that it does not take. `other`:
    what it takes under a name in place of the usual kind.
    """
    kinds = {name: other.get(name, kind) for name, kind in _KINDS.items() if name not in left_out}
    shared = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=WORK if name == "work" else None, annotation=kind
        )
        for name, kind in kinds.items()
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def with_options(**given: Any) -> None:
            options = options_of({name: given.pop(name) for name in kinds})
            command(options=options, **given)

        parameters: list[inspect.Parameter] = []
        for each in inspect.signature(command).parameters.values():
            parameters += shared if each.name == "options" else [each.replace(kind=inspect.Parameter.KEYWORD_ONLY)]
        with_options.__dict__["__signature__"] = inspect.Signature(parameters)  # what Typer reads
        with_options.__annotations__ = {each.name: each.annotation for each in parameters}
        return with_options

    return decorate


def options_of(given: Mapping[str, Any]) -> "Options":
    """Return the options that describe a run from the parameters of a command, by name. Others are ignored."""
    from pipelines.request import Options

    described = {name: given[name] for name in _KINDS if name in given}
    paths = {role: described.pop(role, None) for role in ROLES}
    return Options(
        archives={role: path for role, path in paths.items() if path is not None},
        assignments=tuple(described.pop("assignments") or ()),
        **described,
    )
