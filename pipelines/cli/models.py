"""idxtrain models: the registry of models, from the command line."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.errors import reported
from pipelines.cli.options import ModelName, WorkFolder
from pipelines.names import WORK

if TYPE_CHECKING:
    from deploy.registry.registry import Registry
    from pipelines.retraining.retrain_dir import RetrainDir

WhichVersion = Annotated[str, typer.Argument(help="Version number, alias (champion, challenger, previous) or run ID.")]

app = typer.Typer(name="models", help="List, compare, promote and export registered models.", no_args_is_help=True)


@app.command("list")
@reported()
def list_versions(name: ModelName = "mnist", work: WorkFolder = WORK) -> None:
    """List the versions, newest first."""
    registry, _ = _open(name, work)
    rows = [
        (
            version.number,
            "–" if version.accuracy is None else f"{version.accuracy:.4f}",
            time.strftime("%Y-%m-%d %H:%M", time.localtime(version.created)),
            version.run_id,
            ", ".join(version.aliases),
        )
        for version in registry.versions()
    ]
    _print_table(("version", "accuracy", "registered", "run", "aliases"), rows, right=(0, 1))


@app.command("show")
@reported()
def show_version(which: WhichVersion, name: ModelName = "mnist", work: WorkFolder = WORK) -> None:
    """Show the parameters and metrics of a version."""
    from jobs.errors import printable

    registry, _ = _open(name, work)
    version = registry.find(which)
    details = registry.details(version)
    aliases = f" ({', '.join(version.aliases)})" if version.aliases else ""
    print(printable(f"{name} version {version.number}{aliases}, run {version.run_id}"))
    print(printable(f"model SHA-256 {version.model_sha256}"))
    values = details["metrics"] | details["parameters"]
    _print_table(("parameter or metric", "value"), sorted(values.items()))


@app.command("compare")
@reported()
def compare_versions(
    one: WhichVersion, other: WhichVersion, name: ModelName = "mnist", work: WorkFolder = WORK
) -> None:
    """Show how two versions differ."""
    registry, _ = _open(name, work)
    versions = [registry.find(which) for which in (one, other)]
    left, right = (
        {key: str(value) for values in registry.details(version).values() for key, value in values.items()}
        for version in versions
    )
    rows = [
        (key, left.get(key, "–")[:22], right.get(key, "–")[:22])
        for key in sorted(left.keys() | right.keys())
        if left.get(key) != right.get(key)
    ]
    _print_table(("", *(f"version {version.number}" for version in versions)), rows, right=(1, 2))


@app.command("promote")
@reported()
def promote_version(which: WhichVersion, name: ModelName = "mnist", work: WorkFolder = WORK) -> None:
    """Make a version the champion, whatever the gate decided."""
    from pipelines.retraining.promotion import promote

    with _open_to_change(name, work) as (registry, folder):
        version = registry.find(which)
        promote(folder, registry, version)
        print(f"{name}: version {version.number} is the champion")


@app.command("rollback")
@reported()
def roll_back(name: ModelName = "mnist", work: WorkFolder = WORK) -> None:
    """Undo the last promotion.

    The previous champion becomes the champion again.
    """
    from pipelines.retraining.promotion import rollback

    with _open_to_change(name, work) as (registry, folder):
        print(f"{name}: version {rollback(folder, registry).number} is the champion again")


@app.command("export")
@reported()
def export_version(
    to: Annotated[Path, typer.Option(help="File, or SavedModel folder, to write; must not exist.")],
    which: WhichVersion = "champion",
    kind: Annotated[str, typer.Option("--format", help="keras, savedmodel or onnx.")] = "keras",
    name: ModelName = "mnist",
    work: WorkFolder = WORK,
) -> None:
    """Write a version's model to a file.

    The file is kept only if it predicts the same as the registered model.
    """
    from deploy.registry.export import check, export
    from deploy.registry.tracking import scratch

    target = to.expanduser().absolute()
    check(kind, target)
    registry, folder = _open(name, work)
    version = registry.find(which)
    with scratch(folder.work) as temporary:
        model = registry.model_file(version, temporary)
        difference = export(model, kind, target, temporary / "tensorflow.log")
    print(f"{name}: version {version.number} as {kind} in {to}; probabilities differ by up to {difference:.1g}")


@app.command("sync")
@reported()
def sync_registry(name: ModelName = "mnist", work: WorkFolder = WORK) -> None:
    """Register runs kept while the registry was unreachable."""
    from pipelines.retraining.promotion import finish_promotion
    from pipelines.retraining.register import sync

    with _open_to_change(name, work) as (registry, folder):
        finish_promotion(folder, registry)
        registered = [decision for decision in sync(folder, registry) if decision.version is not None]
        for decision in registered:
            outcome = "promoted" if decision.promote else f"not promoted: {decision.reason}"
            print(f"{name}: version {decision.version}, run {decision.run_id}: {outcome}")
        waiting = folder.waiting()
        print(f"{name}: {len(registered)} registered, {len(waiting)} waiting")
        if waiting:
            sys.exit(1)


def _print_table(header: tuple[str, ...], rows: Sequence[Sequence[object]], right: tuple[int, ...] = ()) -> None:
    from jobs.errors import printable
    from jobs.text_table import text_table

    for line in text_table(header, rows, right):
        print(printable(line))


def _open(name: str, work: Path, *, changes: bool = False) -> "tuple[Registry, RetrainDir]":
    """Return the registry of a model and the folder of its retraining; raise InputError where there is none."""
    from deploy.registry.registry import Registry
    from pipelines import request
    from pipelines.retraining.retrain_dir import RetrainDir, require_name, require_registry

    require_name(name)
    folder = RetrainDir(request.work_dir(request.Options(work=work)), name)
    require_registry(folder, os.environ, changes=changes)
    return Registry(folder.work, name, os.environ), folder


@contextmanager
def _open_to_change(name: str, work: Path) -> "Iterator[tuple[Registry, RetrainDir]]":
    """Open the registry under the model's lock: one process at a time changes it."""
    registry, folder = _open(name, work, changes=True)
    with folder.lock():
        yield registry, folder
