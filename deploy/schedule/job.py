"""A scheduled retraining as a value, from which the texts for cron, systemd and Slurm are made."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deploy.schedule.expression import Cron
from jobs.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ScheduledJob:
    """A retraining at set times.

    `name`: of the registered model. `argv`: the program's absolute path and its arguments. `folder`: the working
    directory, absolute. `log`: a file that the program itself rotates. `environment`: variables to set, without
    secrets. `environment_file`: NAME=value lines that only the user may read. `sbatch`: options for Slurm.
    """

    name: str
    cron: Cron
    argv: tuple[str, ...]
    folder: Path
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    environment_file: Path | None = None
    sbatch: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        words = [*self.argv, str(self.folder), str(self.log), str(self.environment_file), *self.sbatch]
        for word in [*words, *self.environment.values()]:
            if not word.isprintable():
                raise InputError(
                    f"schedule: found {word!r}, expected no line breaks or control characters; fix: rename it"
                )

    @property
    def title(self) -> str:
        """The job's name in the scheduler."""
        return f"idxtrain-retrain-{self.name}"

    @property
    def logged_argv(self) -> tuple[str, ...]:
        """The command line, with --log."""
        return (*self.argv, "--log", str(self.log))

    def shell_line(self) -> str:
        """Return one line for sh that runs the job in its folder and environment, and replaces the shell."""
        source = f"set -a && . {shlex.quote(str(self.environment_file))} && set +a && " if self.environment_file else ""
        variables = "".join(f"{key}={shlex.quote(value)} " for key, value in self.environment.items())
        return f"cd {shlex.quote(str(self.folder))} && {source}exec env {variables}{shlex.join(self.logged_argv)}"
