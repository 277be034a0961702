"""idxtrain doctor: look at this machine, print one table."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from jobs.logs import log_to_stderr
from pipelines.options import WORK, WorkFolder

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
