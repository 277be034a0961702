"""How a stage's processes are started, as values: argv and environment. Nothing is started here."""

import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deploy.launcher.config import LaunchConfig
from jobs.python import module_command


@dataclass(frozen=True)
class Launch:
    """A command line, the variables it adds to the environment, and the signal that asks it to stop."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    stop: signal.Signals = signal.SIGTERM

    def __str__(self) -> str:
        """Return the launch as a shell command."""
        return " ".join(
            [f"{key}={shlex.quote(value)}" for key, value in self.environment.items()] + [shlex.join(self.argv)]
        )


def launch(stage: str, run_dir: Path, ranks: int, config: LaunchConfig) -> Launch:
    """Return how to start a stage on this machine: with several ranks under the launcher, or as one process.

    A training of one rank also gets the launcher, which watches it.
    """
    command = module_command(f"jobs.{stage}", str(run_dir))
    if stage == "train":
        return launch_ranks(command, ranks, config, run_dir)
    return launch_evaluation(command, ranks, run_dir) if stage == "evaluate" and ranks > 1 else Launch(command)


def launch_evaluation(
    command: Sequence[str], ranks: int, run_dir: Path, site_file: Path | None = None, python: str = sys.executable
) -> Launch:
    """Return how to start the launcher with N ranks of an evaluation, which are not restarted.

    The arguments are those of `launch_ranks`.
    """
    options = ["--stage", "evaluate", "--np", str(ranks), "--max-restarts", "0", "--run-dir", str(run_dir)]
    if site_file is not None:
        options += ["--site", str(site_file)]
    return Launch(module_command("deploy.launcher", *options, *command, python=python))


def launch_ranks(
    command: Sequence[str],
    ranks: int,
    config: LaunchConfig,
    run_dir: Path | None = None,
    site_file: Path | None = None,
    python: str = sys.executable,
) -> Launch:
    """Return how to start the launcher, `python -m deploy.launcher`, with a command of which it runs N ranks.

    `command`: argv of one rank. `run_dir`: for heartbeats and the restart history; None: no heartbeats, so no stalls.
    `site_file`: the site as JSON, for ranks under srun; None: ranks on this machine.
    """
    options = ["--np", str(ranks)]
    if run_dir is not None:
        options += ["--run-dir", str(run_dir)]
    options += ["--stall-seconds", f"{config.stall_seconds:g}", "--max-restarts", str(config.max_restarts)]
    if config.min_np is not None:
        options += ["--min-np", str(config.min_np)]
    if site_file is not None:
        options += ["--site", str(site_file)]
    return Launch(module_command("deploy.launcher", *options, *command, python=python))


def visible_gpus(environment: Mapping[str, str], devices: Path = Path("/dev")) -> int:
    """Return how many NVIDIA GPUs this process may use, without loading CUDA."""
    listed = environment.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return len([gpu for gpu in listed.split(",") if gpu.strip() not in ("", "-1", "NoDevFiles")])
    return len([path for path in devices.glob("nvidia[0-9]*") if path.name.removeprefix("nvidia").isdigit()])
