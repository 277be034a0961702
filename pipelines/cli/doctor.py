"""idxtrain doctor: check this machine, or all nodes of a Slurm job, and print one table."""

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer

from jobs.words import counted
from pipelines.cli.errors import reported
from pipelines.cli.options import OptionalSiteName, SiteAssignments, WorkFolder
from pipelines.names import WORK

app = typer.Typer()
log = logging.getLogger("idxtrain")


@app.command()
@reported()
def doctor(site: OptionalSiteName = None, site_assignments: SiteAssignments = None, work: WorkFolder = WORK) -> None:
    """Check that this machine, or a Slurm job, can train.

    Without --site, checks this machine: versions, Java, compilers, Horovod's build, GPUs, disk, and an allreduce on two
    ranks. With --site, checks every node of the Slurm job around it. Exits with 1 if a check fails; warnings do not
    count.
    """
    folder = work.expanduser().resolve()
    raise typer.Exit(_check_machine(folder) if site is None else _check_nodes(site, site_assignments or (), folder))


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
