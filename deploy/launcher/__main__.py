"""python -m deploy.launcher --np N [options] COMMAND…: run the ranks of a training, here or in a Slurm allocation."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.launcher.launcher import Launcher
from deploy.launcher.ranks import LocalRanks
from jobs.errors import IdxtrainError
from jobs.files import read_object
from jobs.logs import keep_writing
from jobs.process import die_with_parent
from jobs.run_dir import RunDir


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; exits with 2 and a usage line where it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m deploy.launcher")
    parser.add_argument("--np", type=int, required=True, help="ranks")
    parser.add_argument("--min-np", type=int, help="go on with as few after failures (default: all)")
    parser.add_argument("--max-restarts", type=int, default=0)
    parser.add_argument("--stall-seconds", type=float, default=120.0)
    parser.add_argument("--run-dir", type=Path, help="where heartbeats and the history of restarts go")
    parser.add_argument("--site", type=Path, help="start ranks by srun, as this site's JSON says; wants --run-dir")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args(arguments)
    if options.np < 1 or not options.command:
        parser.error("expected --np of at least 1, and a command")
    if options.site and not options.run_dir:
        parser.error("--site: expected --run-dir, too")
    return options


def make_gang(options: argparse.Namespace) -> Launcher:
    """Return the gang that the options mean: of this machine, or of the Slurm allocation that this process runs in."""
    if options.site is None:
        return Launcher(options, LocalRanks)
    from deploy.slurm.commands import inside
    from deploy.slurm.site import validate
    from deploy.slurm.step import allocation

    run = RunDir(options.run_dir)
    site = validate(read_object(options.site, "submit the run again"), str(options.site))
    rehearsal = inside(site, sys.executable, run.path, "deploy.launcher.allreduce", str(run.logs / "allreduce.json"))
    return Launcher(options, allocation(site, run.heartbeats, os.environ).start, rehearsal)


if __name__ == "__main__":
    die_with_parent()
    keep_writing()
    try:
        sys.exit(make_gang(parse(sys.argv[1:])).run())
    except IdxtrainError as error:
        print(f"idxtrain: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:  # no room for the heartbeats, no such command
        print(f"idxtrain: {error}", file=sys.stderr)
        sys.exit(IdxtrainError.exit_code)
