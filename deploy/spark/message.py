"""The message to a daemon's supervisor on a node. It goes through srun's stdin, as it holds a secret."""

import json
from dataclasses import asdict, dataclass
from typing import Self


@dataclass(frozen=True, kw_only=True)
class DaemonMessage:
    """How a daemon is to run.

    `command`: an argv that runs a Spark daemon once the daemon's arguments follow. `secret`: what daemons, driver and
    executors prove to each other. `job`: the job's ID, for the scratch folder's name. `address`: the master's and the
    driver's. `interface`: the network interface to listen on; empty: the one that leads to the master. `machine`: the
    launching node's, see `deploy.slurm.network.machine`. `cores`, `memory`: a worker's; 0 and empty: all of the node's.
    """

    command: tuple[str, ...]
    secret: str
    job: str
    address: str
    interface: str
    machine: str
    cores: int
    memory: str

    @classmethod
    def from_line(cls, line: str) -> Self:
        """Return the message in a line; raise KeyError, TypeError or ValueError if it has none."""
        values = json.loads(line)
        return cls(**{**values, "command": tuple(values["command"])})

    def to_line(self) -> str:
        """Return the message as a line of text."""
        return json.dumps(asdict(self)) + "\n"
