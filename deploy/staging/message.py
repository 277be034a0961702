"""The message to the process that stages on a node, which goes through srun's stdin; and where it stages, as paths."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from deploy.slurm.scratch import folder_name
from deploy.staging.archive import Archive


@dataclass(frozen=True, kw_only=True)
class StageMessage:
    """What a node is to stage, and where.

    `job`, `token`: name the folder, which has the same path on every node. `python`: the interpreter that the
    environment is for, which stays where it is. `packages`: the path of its packages below the environment.
    `archives`: what to unpack into them; none, if the environment is not staged.
    """

    job: str
    token: str
    python: str
    packages: str
    archives: tuple[Archive, ...]

    @classmethod
    def from_line(cls, line: str) -> Self:
        """Return the message in a line; raise KeyError, TypeError or ValueError if it has none."""
        values = json.loads(line)
        return cls(**{**values, "archives": tuple(Archive(**each) for each in values["archives"])})

    def to_line(self) -> str:
        """Return the message as a line of text."""
        return json.dumps(asdict(self)) + "\n"

    @property
    def name(self) -> str:
        """The name of the folder, without the token."""
        return f"{self.job}-staged"

    def staged(self, scratch: Path) -> "Staged":
        """Return where a node has what it stages. `scratch`: see `deploy.slurm.scratch.scratch_parent`."""
        return Staged(scratch / folder_name(self.name, self.token))


@dataclass(frozen=True)
class Staged:
    """The folder that a job has on each of its nodes."""

    folder: Path

    @property
    def ready_file(self) -> Path:
        """Exists once everything is unpacked."""
        return self.folder / "ready"

    @property
    def environment(self) -> Path:
        """The Python environment."""
        return self.folder / "environment"

    @property
    def python(self) -> Path:
        """The environment's Python."""
        return self.environment / "bin" / "python"

    @property
    def shards(self) -> Path:
        """Where ranks copy shards: see `jobs.shard_copies`."""
        return self.folder / "shards"
