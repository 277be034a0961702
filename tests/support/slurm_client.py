"""What tests ask a Slurm, whichever cluster of theirs it is."""

import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

_ACTIVE = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "SUSPENDED")


class SlurmClient(ABC):
    """Slurm's commands, and waiting for what they report."""

    @abstractmethod
    def run(self, *command: object, check: bool = False) -> subprocess.CompletedProcess[str]:
        """Run one of Slurm's commands as root."""

    def show(self, job: object) -> Mapping[str, str]:
        """Return what `scontrol show job` shows of a job, by key; an empty mapping if it is unknown."""
        words = self.run("scontrol", "--oneliner", "show", "job", job).stdout.split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def state(self, job: object) -> str:
        """Return a job's state, e.g. COMPLETED; an empty text if it is unknown."""
        return self.show(job).get("JobState", "")

    def wait_for(self, condition: Callable[[], bool], seconds: float = 120.0) -> None:
        """Wait until a condition holds; raise TimeoutError, with the queue's state, if it does not in time."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(self.run("squeue", "--states=all", "--long").stdout)
            time.sleep(0.1)

    def wait_for_end(self, *jobs: object, seconds: float = 600.0) -> None:
        """Wait until jobs have ended, successfully or not."""
        self.wait_for(lambda: all(self.state(job) not in _ACTIVE for job in jobs), seconds)

    def idle(self) -> bool:
        """Return whether both nodes are up and have no job."""
        states = self.run("sinfo", "--noheader", "--Node", "--partition=batch", "--format=%T").stdout.split()
        return states == ["idle"] * 2
