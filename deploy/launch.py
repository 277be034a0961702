"""How a stage's processes are started, as values: argv and environment. Nothing is started here."""

import shlex
import sys
from collections.abc import Mapping
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


def horovodrun(run_dir: Path, ranks: int) -> Launch:
    """All ranks on this machine, started by Horovod's own launcher over its Gloo backend: no MPI, no SSH."""
    program = str(Path(sys.executable).with_name("horovodrun"))
    # Without the interface named, horovodrun probes all of them, and hangs where one leads nowhere.
    options = ("--gloo", "--network-interfaces", "lo", "-np", str(ranks), "-H", f"localhost:{ranks}")
    return Launch((program, *options, sys.executable, "-m", "jobs.train", str(run_dir)))


def launch(stage: str, run_dir: Path, ranks: int) -> Launch:
    """Return how to start a stage on this machine."""
    if stage == "train" and ranks > 1:
        return horovodrun(run_dir, ranks)
    return in_process(stage, run_dir)


def visible_gpus(environment: Mapping[str, str], devices: Path = Path("/dev")) -> int:
    """Return how many NVIDIA GPUs this process may use, without loading CUDA."""
    listed = environment.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return len([gpu for gpu in listed.split(",") if gpu.strip() not in ("", "-1", "NoDevFiles")])
    return len([path for path in devices.glob("nvidia[0-9]*") if path.name.removeprefix("nvidia").isdigit()])
