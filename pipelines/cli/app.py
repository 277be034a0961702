"""idxtrain: parse, call, print. Nothing is computed here, and nothing heavy is imported."""

from pipelines.cli import startup  # noqa: F401 # isort: skip  (first, as it says)

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any

import typer

from jobs import stop_signals
from jobs.errors import IdxtrainError, ReportedError, ResumableError
from jobs.logs import keep_writing, log_to_stderr
from jobs.umask import keep_others_from_writing
from pipelines.cli import config, retraining, schedule, slurm, stdout
from pipelines.cli.options import (
    Assignments,
    Data,
    Dataset,
    DryRun,
    Np,
    Recipe,
    RunId,
    Seed,
    SiteAssignments,
    SparkMaster,
    WorkFolder,
    complete_recipe,
)
from pipelines.request import WORK, Options

# \b: the lines below are shown as they are.
EXAMPLES = """\b
Examples:
  idxtrain run                               MNIST, the default recipe
  idxtrain run --recipe lecture --np 2       another recipe, on two ranks
  idxtrain run --data ~/archives --set train.epochs=5   your own IDX archives
  idxtrain run --run-id ID                   go on with a run that was interrupted
  idxtrain plan --np 3                       rows, shards and steps, before anything starts
"""

app = typer.Typer(
    help="IDX archives in, a trained and tested classifier out.",
    epilog=EXAMPLES,
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help, in half the time: Rich is loaded where there is progress to show
    pretty_exceptions_enable=False,
)


@contextmanager
def _exit_codes() -> Iterator[None]:
    """End with exit code 2 for bad input and 1 for what else went wrong, one line each."""
    log_to_stderr()
    before: dict[signal.Signals, Any] = {}
    requests = stop_signals.Requests()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if requests.note():
            raise KeyboardInterrupt  # as after Ctrl-C, whichever signal asks

    try:
        before = stop_signals.handle(interrupt)  # from here on there may be something to tidy up
        yield
        if requests.count:  # a library may swallow what a signal raises
            print("idxtrain: asked to stop, but all was done", file=sys.stderr)
    except ReportedError as error:  # the stage has said why
        sys.exit(error.exit_code)
    except IdxtrainError as error:
        print(f"idxtrain: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        if not stdout.is_lost():  # else `main` tells
            print(f"idxtrain: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("idxtrain: interrupted", file=sys.stderr)
        sys.exit(ResumableError.exit_code)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _pipeline(command: str, last: str, options: Options, dry_run: bool) -> None:
    """Run the stages up to `last` of the run that the options mean."""
    from jobs.run_dir import RunDir
    from jobs.stage import STAGES
    from pipelines import request
    from pipelines.stages import launches, result_line, run_stages

    existing = request.trained_run(options) if command == "evaluate" else request.find_run(options)
    config = request.config_of(options, existing)
    if dry_run:
        run = existing or RunDir(request.place(options).runs / (options.run_id or "RUN_ID"))
        for how in launches(run, config, STAGES[: STAGES.index(last) + 1]).values():
            print(how)
        return
    run = request.open_run(options, existing, config)
    run_stages(run, config, last)
    print(f"run {run.run_id} in {run.path}", file=sys.stderr)
    if last == STAGES[-1]:
        print(result_line(run))


def _add_command(name: str, last: str, text: str) -> None:
    """Add a command that runs the stages up to `last`: all of these take the same options."""

    def command(
        data: Data = None,
        dataset: Dataset = None,
        recipe: Recipe = None,
        np: Np = None,
        assignments: Assignments = None,
        seed: Seed = None,
        spark_master: SparkMaster = None,
        work: WorkFolder = WORK,
        run_id: RunId = None,
        dry_run: DryRun = False,
    ) -> None:
        options = Options(data, dataset, recipe, np, tuple(assignments or ()), seed, spark_master, work, run_id)
        with _exit_codes():
            _pipeline(name, last, options, dry_run)

    app.command(name, help=text)(command)


_add_command(
    "run", "evaluate", "Run the whole pipeline: fetch, prepare, train, evaluate. What is done is not done again."
)
_add_command("fetch", "fetch", "Find or download the archives, and check them.")
_add_command("prepare", "prepare", "Make the Parquet dataset with Spark, after fetch.")
_add_command("train", "train", "Train the model, after fetch and prepare.")
_add_command("evaluate", "evaluate", "Evaluate a trained run on the test set: --run-id, else the latest.")


@app.command()
def plan(
    data: Data = None,
    dataset: Dataset = None,
    recipe: Recipe = None,
    np: Np = None,
    assignments: Assignments = None,
    seed: Seed = None,
    work: WorkFolder = WORK,
) -> None:
    """Tell rows, shards and steps of each rank, before anything starts. Reads headers only."""
    options = Options(data, dataset, recipe, np, tuple(assignments or ()), seed, work=work)
    with _exit_codes():
        from pipelines import request
        from pipelines.plan import lines, plan_training
        from pipelines.stages import ranks

        config = request.config_of(options, None)
        for line in lines(plan_training(config, request.place(options), ranks(config, os.environ))):
            print(line)


app.add_typer(config.app)

recipes_app = typer.Typer(help="List the recipes, or show one.", invoke_without_command=True)
app.add_typer(recipes_app, name="recipes")


@recipes_app.callback()
def list_recipes(context: typer.Context) -> None:
    """List the recipes: what each is, what to expect, and what it costs."""
    from pipelines import recipes

    if context.invoked_subcommand is not None:
        return
    with _exit_codes():
        for name in recipes.names():
            about = recipes.load(name).about
            print(f"{name:<10} {about.summary}\n{'':<10} {about.expected}; {about.images:,} images; {about.time}")


@recipes_app.command("show")
def show_recipe(
    name: Annotated[str, typer.Argument(help="The recipe's name.", autocompletion=complete_recipe)],
) -> None:
    """Print a recipe, as its TOML file has it."""
    from pipelines import recipes

    with _exit_codes():
        print(recipes.load(name).text, end="")


@app.command()
def report(
    run_id: Annotated[str | None, typer.Argument(help="The run. Default: the latest.")] = None,
    work: WorkFolder = WORK,
) -> None:
    """Tell where a training's time went, rank by rank, and name the straggler."""
    with _exit_codes():
        from pipelines import request
        from pipelines.straggler import lines

        for line in lines(request.existing_run(Options(run_id=run_id, work=work))):
            print(line)


@app.command()
def doctor(
    site: Annotated[
        str | None, typer.Option(help="Check all nodes of the Slurm job this runs in, against this site.")
    ] = None,
    site_assignments: SiteAssignments = None,
    work: WorkFolder = WORK,
) -> None:
    """Check this machine: versions, Java, compilers, Horovod's build, GPUs, disk, an allreduce on two ranks."""
    with _exit_codes():
        from pipelines.cli import doctor

        if site is None:
            doctor.doctor(work)
        else:
            doctor.doctor_site(site, site_assignments or (), work)


retraining.register(app, _exit_codes)
schedule.register(app, _exit_codes)
slurm.register(app, _exit_codes)


def main() -> None:
    """Run `idxtrain`."""
    keep_others_from_writing()
    keep_writing()
    result = stdout.watch()
    try:
        app(prog_name="idxtrain")
    finally:
        result.finish()
