"""A private folder on a node's own disk: made, leased, removed; and cleanup of what killed jobs left there.

The process that makes a folder holds a lease beside it for as long as it lives (`jobs.lease`). So the next process of
the same user knows which folders have no owner, even if the site's scratch is on a disk that nodes share.
"""

import os
import secrets
import shutil
import signal
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from deploy.slurm.script import SCRATCH
from jobs.errors import InputError
from jobs.lease import Lease
from jobs.stop_signals import SIGNALS

_PREFIX = "idxtrain-job-"
_TRIES, _TRY_SECONDS = 20, 0.1


def scratch_parent(environment: Mapping[str, str]) -> Path:
    """Return the folder on this node's own disk in which private folders are made: the site's `scratch`."""
    return Path(environment.get(SCRATCH) or "/tmp")  # noqa: S108 (each folder in it is private)


def folder_name(name: str, token: str) -> str:
    """Return the name of a private folder."""
    return f"{_PREFIX}{name}-{token}"


def lease_file(folder: Path) -> Path:
    """Return the lease of a private folder, beside it."""
    return folder.with_name(f".{folder.name}.json")


@contextmanager
def private_folder(parent: Path, name: str, token: str = "") -> Iterator[Path]:
    """Make a folder of mode 0700 in `parent`, named after the job; remove it and all its contents at the end.

    First removes what killed jobs left in `parent`. `token`: makes the name unique; by default a random one. Raises
    InputError if it cannot make a folder there, HeldError if another process has made the one with this token.
    """
    folder = parent / folder_name(name, token or secrets.token_hex(4))
    with ExitStack() as leases:
        try:
            _remove_abandoned(parent)
            leases.enter_context(_lease(folder))  # before the folder: one without a lease counts as abandoned
            folder.mkdir(mode=0o700)
        except OSError as error:
            raise InputError(
                f"{parent}: found no usable scratch ({error.strerror}), expected a writable folder; "
                "fix: set the site's scratch"
            ) from error
        try:
            yield folder
        finally:
            # A second signal would leave half of it.
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            try:
                _remove(folder)
                leases.close()
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _lease(folder: Path) -> Lease:
    return Lease(lease_file(folder), f"scratch {folder}")


def _remove_abandoned(parent: Path) -> None:
    """Remove this user's folders whose leases no one holds, and leases without a folder."""
    names = {path.name for path in parent.glob(f"{_PREFIX}*") if _is_ours(path, stat.S_IFDIR)}
    names |= {path.name[1:-5] for path in parent.glob(f".{_PREFIX}*.json") if _is_ours(path, stat.S_IFREG)}
    for name in names:
        with suppress(InputError, OSError), _lease(parent / name):  # held, or its lease is another user's
            _remove(parent / name)


def _is_ours(path: Path, kind: int) -> bool:
    """Return whether a path is this user's and of that kind: in a shared scratch, any user may have made it."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_IFMT(status.st_mode) == kind and status.st_uid == os.geteuid()


def _remove(folder: Path) -> None:
    """Remove a folder, even while a process that is about to end still writes into it."""
    for _ in range(_TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(_TRY_SECONDS)
