"""How a stage's processes are started, as values: argv and environment. Nothing is started here."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Launch:
    """A command line, and what it adds to the environment."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return a line for a shell."""
        return " ".join(
            [f"{key}={shlex.quote(value)}" for key, value in self.environment.items()] + [shlex.join(self.argv)]
        )


def in_process(stage: str, run_dir: Path) -> Launch:
    """One process, which is what every stage but a training on several ranks needs."""
    return Launch((sys.executable, "-m", f"jobs.{stage}", str(run_dir)))


def gang(ranks: int, command: Sequence[str]) -> Launch:
    """Several ranks of a command on this machine: see `deploy.gang`."""
    return Launch((sys.executable, "-m", "deploy.gang", str(ranks), *command))


def launch(stage: str, run_dir: Path, ranks: int) -> Launch:
    """Return how to start a stage on this machine."""
    if stage == "train" and ranks > 1:
        return gang(ranks, in_process(stage, run_dir).argv)
    return in_process(stage, run_dir)


def visible_gpus(environment: Mapping[str, str], devices: Path = Path("/dev")) -> int:
    """Return how many NVIDIA GPUs this process may use, without loading CUDA."""
    listed = environment.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return len([gpu for gpu in listed.split(",") if gpu.strip() not in ("", "-1", "NoDevFiles")])
    return len([path for path in devices.glob("nvidia[0-9]*") if path.name.removeprefix("nvidia").isdigit()])
