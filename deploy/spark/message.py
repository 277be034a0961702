"""What the launcher tells the keeper of a daemon on a node. It goes through srun's stdin, as it holds a secret."""

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Order:
    """How a daemon is to run.

    `command`: an argv that becomes Spark's daemon once its arguments follow. `secret`: which daemons, driver and
    executors prove to each other. `job`: names the scratch. `address`: the master's, and the driver's. `interface`: the
    network to listen on; empty: the one that leads to the master. `machine`: the launcher's. `cores`, `memory`: of a
    worker, 0 and empty: all that the node gives.
    """

    command: tuple[str, ...]
    secret: str
    job: str
    address: str
    interface: str
    machine: str
    cores: int
    memory: str

    def to_line(self) -> str:
        """Return the order as a line of text."""
        return json.dumps(asdict(self)) + "\n"


def take(line: str) -> Order:
    """Return the order in a line; raises KeyError, TypeError or ValueError where there is none."""
    values = json.loads(line)
    return Order(**{**values, "command": tuple(values["command"])})
