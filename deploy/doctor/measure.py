"""Measure a training step, on several numbers of ranks, for the forecast of `idxtrain plan`."""

import json
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from deploy.doctor import allocation
from deploy.doctor.probe import ask_json
from deploy.launcher.config import LaunchConfig
from deploy.launcher.launch import launch_ranks
from deploy.slurm.site import Site
from jobs.python import clean_environment, module_command
from jobs.step_speed import StepSpeed, StepSpeeds
from jobs.text_table import text_table
from jobs.words import counted

MODULE = "jobs.train.measure_step"
_SECONDS = 900  # for one number of ranks: TensorFlow from a cold file system, then four measurements of a large model


def rank_counts(limit: int) -> list[int]:
    """Return the numbers of ranks to measure: 1, 2, 4 and so on, and `limit` itself."""
    return sorted({limit, *(1 << power for power in range(limit.bit_length()))})


def measure_here(
    spec: Mapping[str, Any],
    counts: Sequence[int],
    environment: Mapping[str, str],
    progress: Callable[[str], AbstractContextManager[None]],
) -> StepSpeeds:
    """Return the speed of a step on each of these numbers of ranks. `spec`: as `jobs.train.measure_step` reads it.

    Raises ProbeError, with the cause on one line, if the ranks fail.
    """
    with tempfile.TemporaryDirectory(prefix="idxtrain-") as folder:
        file = Path(folder) / "spec.json"
        file.write_text(json.dumps(spec), encoding="utf-8")
        answers = []
        for ranks in counts:
            how = launch_ranks(module_command(MODULE, str(file)), ranks, LaunchConfig(max_restarts=0))
            with progress(f"measuring a step on {counted(ranks, 'rank')}"):
                answers.append(ask_json(how.argv, {**clean_environment(environment), **how.environment}, _SECONDS))
    return _speeds(answers, None, int(spec["batch_size"]))


def measure_nodes(
    spec: Mapping[str, Any],
    site: Site,
    name: str,
    nodes: Sequence[str],
    work: Path,
    environment: Mapping[str, str],
    progress: Callable[[str], AbstractContextManager[None]],
) -> StepSpeeds:
    """Return the speed of a step on one rank, and on all ranks of a job's nodes, started as a training's ranks are.

    `name`: the site's. Raises IdxtrainError, which names the node, if a rank fails.
    """
    answers = []
    with allocation.shared_folder(work) as folder:
        file = folder / "spec.json"
        file.write_text(json.dumps(spec), encoding="utf-8")
        for used, per_node in dict.fromkeys([(1, 1), (len(nodes), site.train.ranks_per_node)]):
            answer = folder / f"speed-{used}-{per_node}.json"
            command = (MODULE, str(file), str(answer))
            job = int(environment["SLURM_JOB_ID"])
            with progress(f"measuring a step on {counted(used * per_node, 'rank')}"):
                allocation.run_ranks(site, nodes[:used], per_node, command, job, folder, work, environment)
            answers.append(json.loads(answer.read_text(encoding="utf-8")))
    return _speeds(answers, name, int(spec["batch_size"]))


def _speeds(answers: Sequence[dict[str, Any]], site: str | None, batch_size: int) -> StepSpeeds:
    """Return what ranks answered, as the work folder keeps it.

    The device is that of one rank of a site, but here what all ranks share: that of the fewest ranks.
    """
    devices = [answer.pop("device") for answer in answers]
    device = devices[0] if site is None else devices[-1]
    steps = tuple(StepSpeed.model_validate(answer) for answer in answers)
    return StepSpeeds(host=platform.node(), site=site, device=device, batch_size=batch_size, steps=steps)


def lines(speeds: StepSpeeds) -> list[str]:
    """Return the measured figures as a table, one line per number of ranks."""
    header = ("ranks", "rows per rank", "ms per step", "of it in allreduce", "images/s")
    rows = [
        (
            step.ranks,
            step.rows,
            f"{1e3 * step.seconds:.2f}",
            f"{1e3 * step.waited:.2f}",
            f"{speeds.batch_size / step.seconds:,.0f}",
        )
        for step in speeds.steps
    ]
    return text_table(header, rows, right=range(len(header)))
