"""The lock of a run: one process at a time works on it. See `jobs.lease`."""

from jobs.errors import InputError
from jobs.lease import HeldError, Lease
from jobs.run_dir import RunDir


class LockedError(InputError):
    """Another process works on the run and appears to be alive."""


class RunLock(Lease):
    """The lease of a run, `RUN/lock.json`."""

    def __init__(self, run: RunDir) -> None:
        self._run = run
        super().__init__(run.lock_file, f"run {run.run_id}")

    def __enter__(self) -> "RunLock":
        """Take the lock; raise LockedError where a live process has it, InputError where its file is damaged."""
        try:
            super().__enter__()
        except HeldError as error:
            raise LockedError(
                f"--run-id {self._run.run_id}: {error.why}; fix: wait for it, or give another --run-id"
            ) from error
        return self
