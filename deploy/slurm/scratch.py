"""A private folder on a node's own disk: made, held, removed; and what killed jobs have left there.

Whoever makes a folder holds a lock in it for as long as it lives, which the kernel lets go however it ends. So whoever
comes next, of the same user on the same node, knows which folders nobody owns any more.
"""

import fcntl
import os
import secrets
import shutil
import signal
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.errors import InputError
from jobs.stop_signals import SIGNALS

_PREFIX = "idxtrain-job-"
_LOCK = "lock"
_TRIES, _TRY_SECONDS = 20, 0.1


@contextmanager
def private_folder(parent: Path, name: str) -> Iterator[Path]:
    """Make a folder in `parent` whose name tells the job, mode 0700; remove it at the end, whatever is in it then.

    First it removes what killed jobs left in `parent`. Raises InputError where no folder can be made there.
    """
    try:
        for abandoned in _abandoned(parent):
            _remove(abandoned)
        folder, lock = _make(parent, name)
    except OSError as error:
        raise InputError(f"{parent}: is no scratch ({error.strerror}); mend the site's scratch") from error
    try:
        yield folder
    finally:
        # A second signal would leave half of it.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            _remove(folder)
            os.close(lock)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _make(parent: Path, name: str) -> tuple[Path, int]:
    """Return a new folder and the descriptor that holds its lock. It gets its name once it is locked."""
    unnamed = Path(tempfile.mkdtemp(prefix=".idxtrain-", dir=parent))
    lock = os.open(unnamed / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    folder = parent / f"{_PREFIX}{name}-{secrets.token_hex(4)}"
    unnamed.rename(folder)
    return folder, lock


def _abandoned(parent: Path) -> list[Path]:
    return [folder for folder in parent.glob(f"{_PREFIX}*") if _is_ours(folder) and not _is_held(folder)]


def _is_ours(folder: Path) -> bool:
    """Tell whether a folder is this user's own: in a scratch that all users share, any name may be anybody's."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


def _is_held(folder: Path) -> bool:
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:  # it is locked before it has its name, so its removal was not finished
        return False
    except OSError:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def _remove(folder: Path) -> None:
    """Remove a folder, also one into which a process that is about to end still writes."""
    for _ in range(_TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(_TRY_SECONDS)
