"""idxtrain run, fetch, prepare, train, evaluate, plan: the pipeline on this machine."""

import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import typer

from pipelines.cli.errors import reported
from pipelines.cli.options import DryRun, Strict
from pipelines.cli.run_options import describes_run

if TYPE_CHECKING:
    from jobs.run_dir import RunDir
    from pipelines.request import Options

app = typer.Typer()

_SKIPS = "Finished stages are skipped."
# The help of the commands that run stages, which share their options.
_HELP = {
    "run": f"Run the pipeline: fetch, prepare, train, evaluate.\n\n{_SKIPS}",
    "fetch": "Find or download the archives, and check them.",
    "prepare": f"Fetch, then make the Parquet dataset with Spark.\n\n{_SKIPS}",
    "train": f"Fetch and prepare, then train the model.\n\n{_SKIPS}",
    "evaluate": (
        "Evaluate a trained model on the test set.\n\nEvaluates the run --run-id, or the latest run. With --data, or "
        "--test-images and --test-labels, it evaluates the model on that test pair instead: the result is in "
        "RUN/evaluations/NAME, and the run stays as it is."
    ),
}


@reported()
@describes_run()
def run_stages_up_to(
    context: typer.Context, options: "Options", dry_run: DryRun = False, strict: Strict = False
) -> None:
    """Run the stages up to the one that names the command; `run` is all of them."""
    from jobs.run_dir import RunDir
    from jobs.stage import STAGES
    from pipelines import evaluation, request
    from pipelines.stages import local_launches, result_line, run_stages

    if strict:
        options = replace(options, assignments=(*options.assignments, "prepare.strict=true"))
    command = str(context.info_name)
    last = STAGES[-1] if command == "run" else command
    existing = request.trained_run(options) if command == "evaluate" else request.find_run(options)
    if command == "evaluate" and existing and evaluation.asks_for_other_data(options, existing):
        _evaluate_elsewhere(options, existing, dry_run)
        return
    config = request.config_of(options, existing)
    if dry_run:
        run = existing or RunDir(request.work_dir(options).runs / (options.run_id or "RUN_ID"))
        for launch in local_launches(run, config, STAGES[: STAGES.index(last) + 1]).values():
            print(launch)
        return
    if existing is None:
        request.check_archives(config)
    with request.opened_run(options, existing, config) as run:
        run_stages(run, config, last)
    print(f"run {run.run_id} in {run.path}", file=sys.stderr)
    if last == STAGES[-1]:
        print(f"report {run.report_file}", file=sys.stderr)
        print(result_line(run))


def _evaluate_elsewhere(options: "Options", run: "RunDir", dry_run: bool) -> None:
    """Evaluate a run on other data than its own test split."""
    from pipelines import evaluation
    from pipelines.stages import result_line

    config = evaluation.config_of_evaluation(options, run)
    if dry_run:
        for launch in evaluation.launches(evaluation.folder(run, config)).values():
            print(launch)
        return
    done = evaluation.evaluate_elsewhere(run, config)
    print(f"run {run.run_id} on {config.fetch.dataset} in {done.path}", file=sys.stderr)
    print(result_line(done))


for _command, _help in _HELP.items():
    app.command(_command, help=_help)(run_stages_up_to)


@app.command()
@reported()
@describes_run("spark_master", "run_id")
def plan(options: "Options") -> None:
    """Show rows, shards and steps per rank, and start nothing.

    Only the headers of the archives are read, and labels that take less than a second. After `idxtrain doctor
    --measure`, also shows how long an epoch takes, and the best number of ranks.
    """
    from pipelines import forecast, request
    from pipelines.plan import lines, plan_training, rank_table
    from pipelines.stages import ranks

    config, work = request.config_of(options, None), request.work_dir(options)
    training = plan_training(config, work, ranks(config, os.environ))
    print(*lines(training), *forecast.lines(training, work), "", *rank_table(training), sep="\n")
