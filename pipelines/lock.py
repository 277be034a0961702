"""One process at a time works on a run: see `jobs.lease`."""

from jobs.errors import InputError
from jobs.lease import HeldError, Lease
from jobs.run_dir import RunDir


class LockedError(InputError):
    """Another process, which lives as far as one can see, works on the run."""


class RunLock(Lease):
    """The lease of a run, `RUN/lock.json`."""

    def __init__(self, run: RunDir) -> None:
        self._run = run
        super().__init__(run.path / "lock.json", f"run {run.run_id}")

    def __enter__(self) -> "RunLock":
        """Take the lock; raise LockedError where another process, which lives, has it, InputError where it is torn."""
        try:
            super().__enter__()
        except HeldError as error:
            raise LockedError(
                f"--run-id {self._run.run_id}: {error.why}; wait for it, or give another --run-id"
            ) from error
        return self
