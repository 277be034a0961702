"""What the launcher tells its tasks, by environment: who they are to be, and where they find each other."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_PREFIX = "IDXTRAIN_STEP_"


@dataclass(frozen=True)
class Order:
    """One attempt at running all ranks.

    `folder`: in the run directory, where `attempt-TOKEN` lies and exit files go. `address`, `port`, `key`: the
    rendezvous server's. `interface`: the network to talk over; empty: the one that leads to the server. `machine`: the
    launcher's. `gpus`: how many each node was to give.
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

    @property
    def mark(self) -> Path:
        """A file that the launcher wrote: whoever sees it sees the shared run directory."""
        return Path(self.folder) / f"attempt-{self.token}"

    @property
    def hello(self) -> str:
        """What a line to stderr begins with by which a task tells the launcher its rank and its address."""
        return f"idxtrain-task-{self.token} "

    def exit_file(self, rank: int) -> Path:
        """Where a task tells how its rank ended."""
        return Path(self.folder) / f"exit-{self.token}.rank-{rank}.json"

    def environment(self) -> dict[str, str]:
        """Return the order as environment variables."""
        return {_PREFIX + name.upper(): str(value) for name, value in vars(self).items()}


def take(environment: Mapping[str, str] = os.environ) -> Order:
    """Return the order in an environment; raises KeyError or ValueError where there is none."""
    fields = Order.__dataclass_fields__
    texts = {name: environment[_PREFIX + name.upper()] for name in fields}
    return Order(**{name: int(text) if fields[name].type is int else text for name, text in texts.items()})  # type: ignore[arg-type]
