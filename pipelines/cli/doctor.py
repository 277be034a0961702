"""idxtrain doctor: check this machine, or all nodes of a Slurm job, and print one table."""

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.archive import ROLES
from jobs.words import counted
from pipelines.cli.errors import reported
from pipelines.cli.options import OptionalSiteName, SiteAssignments
from pipelines.cli.run_options import describes_run

if TYPE_CHECKING:
    from pipelines.request import Options

app = typer.Typer()
log = logging.getLogger("idxtrain")


@app.command()
@reported()
@describes_run(*ROLES, "classes", "seed", "spark_master", "run_id")
def doctor(
    options: "Options",
    site: OptionalSiteName = None,
    site_assignments: SiteAssignments = None,
    measure: Annotated[bool, typer.Option("--measure", help="Measure a step, for the forecast of `plan`.")] = False,
) -> None:
    """Check that this machine, or a Slurm job, can train.

    Without --site, checks this machine: versions, Java, compilers, Horovod's build, GPUs, disk, and an allreduce on two
    ranks. With --site, checks every node of the Slurm job around it. Exits with 1 if a check fails; warnings do not
    count.

    With --measure, measures a training step instead, on 1, 2, 4 … ranks up to --np or the CPUs, or on the nodes of the
    job. --data, --dataset, --recipe and --set describe the training.
    """
    if measure:
        _measure(options, site, site_assignments or ())
        return
    _refuse_options_of_measure(options)
    folder = options.work.expanduser().resolve()
    raise typer.Exit(_check_machine(folder) if site is None else _check_nodes(site, site_assignments or (), folder))


def _refuse_options_of_measure(options: "Options") -> None:
    from jobs.errors import InputError

    given = {"--data": options.data, "--dataset": options.dataset, "--recipe": options.recipe, "--np": options.np}
    for option in (option for option, value in {**given, "--set": options.assignments}.items() if value):
        raise InputError(f"{option}: found without --measure, expected with it; fix: leave it out, or add --measure")


def _measure(options: "Options", site_name: str | None, assignments: Sequence[str]) -> None:
    """Measure a step of the training that the options describe; print and keep the figures."""
    from deploy.doctor import allocation, measure
    from jobs import step_speed
    from pipelines import forecast, request
    from pipelines.plan import plan_training
    from pipelines.slurm.submit import load_site

    config, work = request.config_of(options, None), request.work_dir(options)
    if site_name is None:
        plan = plan_training(config, work, options.np or 1)
        most = options.np or min(most_ranks(), plan.batch_size, config.train.fixed_slices or plan.batch_size)
        counts = measure.rank_counts(most)
        speeds = measure.measure_here(forecast.spec_of(plan), counts, os.environ, show_progress)
    else:
        site = load_site(site_name, assignments)
        names = allocation.nodes_of(site, site_name, os.environ)
        plan = plan_training(config, work, len(names) * site.train.ranks_per_node)
        name = Path(site_name).stem
        spec = forecast.spec_of(plan)
        speeds = measure.measure_nodes(spec, site, name, names, work.path, os.environ, show_progress)
    print(*measure.lines(speeds), sep="\n")
    print(f"speeds in {step_speed.write(work, forecast.key_of(plan), speeds)}", file=sys.stderr)


def most_ranks() -> int:
    """Return how many ranks this machine has room for: one per GPU, else one per CPU."""
    from deploy.launcher.launch import visible_gpus
    from jobs.train.compute.devices import usable_cpus

    return visible_gpus(os.environ) or usable_cpus()


def _check_machine(work: Path) -> int:
    """Print the checks of this machine, which take about 20 s; return the exit code."""
    from deploy.doctor.check import exit_code, print_table
    from deploy.doctor.examine import examine

    checks = list(examine(work, os.environ, show_progress))
    print_table(checks)
    return exit_code(checks)


def _check_nodes(name: str, assignments: Sequence[str], work: Path) -> int:
    """Print a row for each node of the Slurm job around this process; return the exit code.

    Raises InputError outside a Slurm job.
    """
    from deploy.doctor import allocation, nodes
    from jobs.errors import IdxtrainError
    from pipelines.slurm.submit import load_site

    site = load_site(name, assignments)
    names = allocation.nodes_of(site, name, os.environ)
    speeds: dict[str, float] = {}
    fault = ""
    with allocation.shared_folder(work) as folder:
        with show_progress(f"checking {counted(len(names), 'node')}"):
            facts, ahead = allocation.ask_nodes(site, names, folder, work, os.environ)
        rows = nodes.rows(names, facts, ahead, speeds, site)
        if all(row.verdict != "fails" for row in rows):
            try:
                with show_progress("an allreduce over all nodes"):
                    job = int(os.environ["SLURM_JOB_ID"])
                    by_rank = allocation.allreduce(site, names, job, folder, work, os.environ)
                speeds = nodes.by_node(names, site.train.ranks_per_node, by_rank)
                rows = nodes.rows(names, facts, ahead, speeds, site)
            except IdxtrainError as error:
                fault = f"the allreduce fails: {error}; fix: set the site's interface to one that reaches other nodes"
    print(*nodes.lines(rows), sep="\n")
    if fault:
        print(fault)
    return int(bool(fault) or any(row.verdict == "fails" for row in rows))


@contextmanager
def show_progress(what: str) -> Iterator[None]:
    """Show on stderr what is being done: a spinner on a terminal, else one log line."""
    if not sys.stderr.isatty():
        log.info("doctor: %s", what)
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield
