"""The launcher's message to the tasks of its srun, as environment variables: which attempt, where ranks meet."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

_PREFIX = "IDXTRAIN_STEP_"


@dataclass(frozen=True, kw_only=True)
class StartMessage:
    """One attempt at running all ranks.

    `folder`: shared, in the run folder; holds `attempt-TOKEN`. `token`: of the attempt, known to its tasks alone.
    `address`, `port`, `key`: the rendezvous server's. `interface`: the network interface to use; empty: the one that
    leads to the server. `machine`: the launcher's, see `deploy.slurm.network.machine`. `gpus`: expected on each node.
    `cpus`: of each rank, 0 if the site sets none.
    """

    folder: str
    token: str
    ranks: int
    address: str
    port: int
    interface: str
    machine: str
    gpus: int
    cpus: int
    key: str

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Return the message in an environment; raise KeyError or ValueError if it has none."""
        fields = cls.__dataclass_fields__
        texts = {name: environment[_PREFIX + name.upper()] for name in fields}
        return cls(**{name: int(text) if fields[name].type is int else text for name, text in texts.items()})  # type: ignore[arg-type]

    def environment(self) -> dict[str, str]:
        """Return the message as environment variables."""
        return {_PREFIX + name.upper(): str(value) for name, value in vars(self).items()}

    @property
    def attempt_file(self) -> Path:
        """A file that the launcher wrote: a node that sees it sees the shared run folder."""
        return Path(self.folder) / f"attempt-{self.token}"

    def report(self, rank: int, **facts: Any) -> str:
        """Return the line with which a task reports facts of its rank to the launcher, through srun's stderr."""
        return self._report_prefix + json.dumps({"rank": rank, **facts}, ensure_ascii=False)

    def read_report(self, line: str) -> dict[str, Any] | None:
        """Return the facts, `rank` among them, that a line of srun's stderr reports; None for any other line."""
        if not line.startswith(self._report_prefix):
            return None
        with suppress(ValueError):
            facts = json.loads(line.removeprefix(self._report_prefix))
            if isinstance(facts, dict) and facts.get("rank") in range(self.ranks):
                return facts
        return {}

    @property
    def _report_prefix(self) -> str:
        return f"idxtrain-task-{self.token} "
