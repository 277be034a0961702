"""idxtrain retrain and idxtrain models: parse, call, print."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.errors import printable
from pipelines.cli.options import Assignments, Data, Dataset, Np, Recipe, Seed, SparkMaster, WorkFolder
from pipelines.cli.output_log import output_to
from pipelines.request import WORK, Options

if TYPE_CHECKING:
    from deploy.registry.registry import Registry
    from pipelines.retraining.retrain_dir import RetrainDir

Name = Annotated[str, typer.Option(help="Name of the registered model: the data set's, unless retrain was told.")]
Which = Annotated[str, typer.Argument(help="A version's number, alias (champion, challenger, previous) or run ID.")]

ExitCodes = Callable[[], AbstractContextManager[None]]


def register(app: typer.Typer, exit_codes: ExitCodes) -> None:
    """Add the commands. `exit_codes`: turns errors into exit codes, as for every command."""
    _register_retrain(app, exit_codes)
    _register_prune(app, exit_codes)
    models = typer.Typer(help="The model registry: list, compare, promote, go back.", no_args_is_help=True)
    app.add_typer(models, name="models")
    _register_models(models, exit_codes)


def _register_retrain(app: typer.Typer, exit_codes: ExitCodes) -> None:
    @app.command()
    def retrain(
        data: Data = None,
        dataset: Dataset = None,
        recipe: Recipe = None,
        np: Np = None,
        assignments: Assignments = None,
        seed: Seed = None,
        spark_master: SparkMaster = None,
        work: WorkFolder = WORK,
        name: Annotated[str | None, typer.Option(help="Name of the registered model. Default: the data set's.")] = None,
        warm_start: Annotated[bool, typer.Option("--warm-start", help="Begin with the champion's weights.")] = False,
        notify: Annotated[
            str | None, typer.Option(help="Command that gets the outcome as JSON on stdin; also: IDXTRAIN_WEBHOOK.")
        ] = None,
        force: Annotated[bool, typer.Option("--force", help="Train although nothing is new.")] = False,
        keep: Annotated[
            int | None, typer.Option(min=1, help="Afterwards, prune all but so many of the newest runs.")
        ] = None,
        log: Annotated[
            Path | None, typer.Option(help="File for all it says, instead of the terminal; it rotates at 1 MB.")
        ] = None,
    ) -> None:
        """Retrain if there are new archives; promote the model only if it passes the gate. Made for cron."""
        options = Options(data, dataset, recipe, np, tuple(assignments or ()), seed, spark_master, work)
        with exit_codes(), output_to(log), exit_codes():  # what is wrong with the log is said on the terminal
            from pipelines.retraining.retrain import RetrainOptions
            from pipelines.retraining.retrain import retrain as run

            wanted = RetrainOptions(
                options=options, name=name, warm_start=warm_start, notify=notify, force=force, keep=keep
            )
            print(run(wanted).text)


def _register_prune(app: typer.Typer, exit_codes: ExitCodes) -> None:
    @app.command()
    def prune(
        keep: Annotated[int, typer.Option(min=1, help="How many of the newest runs of each model stay.")] = 5,
        versions: Annotated[
            bool, typer.Option("--versions", help="Also the registry's versions without an alias whose run goes.")
        ] = False,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would go, and remove nothing.")] = False,
        work: WorkFolder = WORK,
    ) -> None:
        """Remove old runs of retraining and the data only they used; never the champion's or what is in use."""
        with exit_codes():
            from pipelines import request
            from pipelines.retraining.prune import Pruning, summary

            removed = Pruning(request.place(Options(work=work)), keep, is_dry=dry_run, versions=versions).run()
            for removal in removed:
                print(f"{'would remove' if dry_run else 'removed'} {removal.kind} {removal.name}")
            print(summary(removed))


def _register_models(app: typer.Typer, exit_codes: ExitCodes) -> None:
    @app.command("list")
    def list_versions(name: Name = "mnist", work: WorkFolder = WORK) -> None:
        """List the versions, newest first."""
        with exit_codes():
            registry, _ = _open(name, work)
            print(f"{'version':>7}  {'accuracy':>8}  {'registered':<16}  {'run':<40}  aliases")
            for version in registry.versions():
                accuracy = f"{version.accuracy:.4f}" if version.accuracy is not None else "–"
                when = time.strftime("%Y-%m-%d %H:%M", time.localtime(version.created))
                row = f"{version.number:>7}  {accuracy:>8}  {when:<16}  {version.run_id:<40}"
                print(printable(f"{row}  {', '.join(version.aliases)}".rstrip()))

    @app.command()
    def show(which: Which, name: Name = "mnist", work: WorkFolder = WORK) -> None:
        """Show all parameters and figures of a version."""
        with exit_codes():
            registry, _ = _open(name, work)
            version = registry.find(which)
            details = registry.details(version)
            aliases = f" ({', '.join(version.aliases)})" if version.aliases else ""
            print(printable(f"{name} version {version.number}{aliases}, run {version.run_id}"))
            print(printable(f"model SHA-256 {version.model_sha256}"))
            for key, value in sorted((details["metrics"] | details["parameters"]).items()):
                print(printable(f"  {key:<34} {value}"))

    @app.command()
    def compare(one: Which, other: Which, name: Name = "mnist", work: WorkFolder = WORK) -> None:
        """Show in what two versions differ."""
        with exit_codes():
            registry, _ = _open(name, work)
            found = [registry.find(which) for which in (one, other)]
            left, right = (
                {k: str(v) for values in registry.details(version).values() for k, v in values.items()}
                for version in found
            )
            print(f"{'':<34} {'version ' + str(found[0].number):>22} {'version ' + str(found[1].number):>22}")
            for key in sorted(left.keys() | right.keys()):
                if left.get(key) != right.get(key):
                    print(printable(f"{key:<34} {left.get(key, '–')[:22]:>22} {right.get(key, '–')[:22]:>22}"))

    @app.command()
    def promote(which: Which, name: Name = "mnist", work: WorkFolder = WORK) -> None:
        """Make a version the champion, whatever the gate said."""
        with exit_codes(), _at_work(name, work) as (registry, place):
            from pipelines.retraining.promotion import promote as move

            version = registry.find(which)
            move(place, registry, version)
            print(f"{name}: version {version.number} is the champion")

    @app.command()
    def rollback(name: Name = "mnist", work: WorkFolder = WORK) -> None:
        """Undo the last promotion: the previous champion is champion again."""
        with exit_codes(), _at_work(name, work) as (registry, place):
            from pipelines.retraining.promotion import rollback as back

            print(f"{name}: version {back(place, registry).number} is the champion again")

    @app.command()
    def export(
        to: Annotated[Path, typer.Option(help="File to write, or folder of a SavedModel; must not be there yet.")],
        which: Which = "champion",
        kind: Annotated[str, typer.Option("--format", help="keras, savedmodel or onnx.")] = "keras",
        name: Name = "mnist",
        work: WorkFolder = WORK,
    ) -> None:
        """Write a version's model to a file, checked to predict as the original."""
        with exit_codes():
            from deploy.registry import export as exports
            from deploy.registry.tracking import scratch

            target = to.expanduser().absolute()
            exports.check(kind, target)
            registry, place = _open(name, work)
            version = registry.find(which)
            with scratch(place.work) as folder:
                model = registry.model_file(version, folder)
                difference = exports.export(model, kind, target, folder / "tensorflow.log")
            print(f"{name}: version {version.number} as {kind} in {to}; probabilities differ by up to {difference:.1g}")

    @app.command()
    def sync(name: Name = "mnist", work: WorkFolder = WORK) -> None:
        """Register the runs that were finished while the registry was away."""
        with exit_codes(), _at_work(name, work) as (registry, place):
            from pipelines.retraining.promotion import finish_promotion
            from pipelines.retraining.register import sync as send

            finish_promotion(place, registry)
            done = [decision for decision in send(place, registry) if decision.version is not None]
            for decision in done:
                what = "promoted" if decision.promote else f"not promoted: {decision.reason}"
                print(f"{name}: version {decision.version}, run {decision.run_id}: {what}")
            waiting = place.waiting()
            print(f"{name}: {len(done)} registered, {len(waiting)} waiting")
            if waiting:
                sys.exit(1)


def _open(name: str, work: Path, *, changes: bool = False) -> "tuple[Registry, RetrainDir]":
    from deploy.registry.registry import Registry
    from pipelines import request
    from pipelines.retraining.retrain_dir import RetrainDir, require_name, require_registry

    require_name(name)
    place = RetrainDir(request.place(Options(work=work)), name)
    require_registry(place, os.environ, changes=changes)
    return Registry(place.work, name, os.environ), place


@contextmanager
def _at_work(name: str, work: Path) -> "Iterator[tuple[Registry, RetrainDir]]":
    """Open the registry to change it: one process at a time."""
    registry, place = _open(name, work, changes=True)
    with place.lock():
        yield registry, place
