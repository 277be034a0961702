"""idxtrain doctor: look at this machine, or at all nodes of a Slurm job, and print one table."""

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer

from jobs.logs import log_to_stderr
from pipelines.cli.options import WorkFolder
from pipelines.request import WORK

log = logging.getLogger("idxtrain")


def doctor(work: WorkFolder = WORK) -> None:
    """Check this machine: versions, Java, GPUs, disks, and two ranks that add numbers up. About 20 seconds.

    Exit code 0 where nothing fails, else 1. A warning stops nobody.
    """
    from deploy.doctor.check import exit_code, print_table
    from deploy.doctor.examine import examine

    log_to_stderr()
    checks = list(examine(work.expanduser().resolve(), os.environ, _tell))
    print_table(checks)
    raise typer.Exit(exit_code(checks))


def doctor_site(name: str, assignments: Sequence[str], work: Path) -> None:
    """Check every node of the Slurm job that this runs in, against a site: one row a node, with the mend of what fails.

    Exit code 0 where nothing fails, else 1; 2 where this is no Slurm job.
    """
    from deploy.doctor import allocation, nodes
    from jobs.errors import IdxtrainError
    from pipelines.slurm.submit import load_site

    log_to_stderr()
    site = load_site(name, assignments)
    names = allocation.nodes_of(site, name, os.environ)
    work = work.expanduser().resolve()
    speeds: dict[str, float] = {}
    fault = ""
    with allocation.shared_folder(work) as folder:
        with _tell(f"asking {len(names)} nodes"):
            facts, ahead = allocation.ask_nodes(site, names, folder, work, os.environ)
        found = nodes.rows(names, facts, ahead, speeds, site)
        if all(row.verdict != "fails" for row in found):
            try:
                with _tell("an allreduce over all of them"):
                    job = int(os.environ["SLURM_JOB_ID"])
                    by_rank = allocation.allreduce(site, names, job, folder, work, os.environ)
                speeds = nodes.by_node(names, site.train.ranks_per_node, by_rank)
                found = nodes.rows(names, facts, ahead, speeds, site)
            except IdxtrainError as error:
                fault = f"the allreduce fails: {error}; set the site's interface to one that leads to the other nodes"
    print(*nodes.lines(found), sep="\n")
    if fault:
        print(fault)
    raise typer.Exit(int(bool(fault) or any(row.verdict == "fails" for row in found)))


@contextmanager
def _tell(what: str) -> Iterator[None]:
    """Show on stderr what takes its time: a spinner on a terminal, a line in a log."""
    if not sys.stderr.isatty():
        log.info("doctor: %s", what)
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield
