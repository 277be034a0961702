"""How a stage's processes are started, as values: argv and environment. Nothing is started here."""

import shlex
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deploy.launcher.config import LaunchConfig
from jobs.python import module_command


@dataclass(frozen=True)
class Launch:
    """A command line, what it adds to the environment, and the signal that asks it to stop where it suits it."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    stop: signal.Signals = signal.SIGTERM

    def __str__(self) -> str:
        """Return a line for a shell."""
        return " ".join(
            [f"{key}={shlex.quote(value)}" for key, value in self.environment.items()] + [shlex.join(self.argv)]
        )


def in_process(stage: str, run_dir: Path) -> Launch:
    """One process, which is what every stage but a training on several ranks needs."""
    return Launch(module_command(f"jobs.{stage}", str(run_dir)))


def gang(ranks: int, command: Sequence[str], options: Sequence[str] = ()) -> Launch:
    """Return how to start a command's ranks on this machine: see `deploy.launcher.launcher`, which has the options."""
    return Launch(module_command("deploy.launcher", "--np", str(ranks), *options, *command))


def launch(stage: str, run_dir: Path, ranks: int, config: LaunchConfig) -> Launch:
    """Return how to start a stage on this machine: a training as a gang, also of one rank, as a gang is watched."""
    alone = in_process(stage, run_dir)
    if stage != "train":
        return alone
    options = ["--run-dir", str(run_dir), "--stall-seconds", f"{config.stall_seconds:g}"]
    options += ["--max-restarts", str(config.max_restarts)]
    if config.min_np is not None:
        options += ["--min-np", str(config.min_np)]
    return gang(ranks, alone.argv, options)


def visible_gpus(environment: Mapping[str, str], devices: Path = Path("/dev")) -> int:
    """Return how many NVIDIA GPUs this process may use, without loading CUDA."""
    listed = environment.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return len([gpu for gpu in listed.split(",") if gpu.strip() not in ("", "-1", "NoDevFiles")])
    return len([path for path in devices.glob("nvidia[0-9]*") if path.name.removeprefix("nvidia").isdigit()])
