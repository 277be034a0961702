"""python -m deploy.launcher --np N [options] COMMAND…: run the ranks of a stage, here or in a Slurm allocation."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.launcher.config import LaunchConfig
from deploy.launcher.launcher import Launcher
from deploy.launcher.ranks import LocalRanks
from jobs.exit_codes import exit_codes
from jobs.files import read_object
from jobs.logs import keep_writing
from jobs.process import die_with_parent
from jobs.run_dir import RunDir


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the parsed command line; print the usage and exit with code 2 if it is invalid."""
    defaults = LaunchConfig()
    parser = argparse.ArgumentParser(prog="python -m deploy.launcher")
    parser.add_argument("--np", type=int, required=True, help="number of ranks")
    parser.add_argument("--min-np", type=int, help="fewest ranks after failures (default: --np)")
    parser.add_argument(
        "--max-restarts",
        type=int,
        default=defaults.max_restarts,
        help="most restarts after failures (default: %(default)s)",
    )
    parser.add_argument(
        "--stall-seconds",
        type=float,
        default=defaults.stall_seconds,
        help="seconds without progress that count as a stall (default: %(default)s)",
    )
    parser.add_argument("--run-dir", type=Path, help="run folder, for heartbeats and the restart history")
    parser.add_argument("--stage", choices=("train", "evaluate"), default="train", help="the stage (default: train)")
    parser.add_argument("--site", type=Path, help="site as JSON: start the ranks with srun; requires --run-dir")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="argv of one rank")
    options = parser.parse_args(arguments)
    if options.np < 1 or not options.command:
        parser.error("expected --np of at least 1, and a command")
    if options.site and not options.run_dir:
        parser.error("--site: found no --run-dir, expected one")
    return options


def make_launcher(options: argparse.Namespace) -> Launcher:
    """Return the launcher for these options: of this machine, or of the Slurm allocation this process runs in."""
    if options.site is None:
        return Launcher(options, LocalRanks)
    from deploy.slurm.commands import site_command
    from deploy.slurm.site import validate
    from deploy.slurm.step import allocation

    run = RunDir(options.run_dir)
    site = validate(read_object(options.site, "submit the run again"), str(options.site))
    if options.stage == "evaluate":  # its ranks do not talk to each other
        return Launcher(options, allocation(site.evaluating(), run.heartbeats, os.environ).start)
    result = str(run.logs / "allreduce.json")
    check = site_command(site, sys.executable, run.path, "deploy.launcher.allreduce", result)
    return Launcher(options, allocation(site, run.heartbeats, os.environ).start, check)


if __name__ == "__main__":
    die_with_parent()
    keep_writing()
    with exit_codes():
        sys.exit(make_launcher(parse(sys.argv[1:])).run())
