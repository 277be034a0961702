"""A private folder on a node's own disk: made, held, removed; and what killed jobs have left there.

Whoever makes a folder holds a lease beside it for as long as it lives (`jobs.lease`). So whoever comes next, of the
same user, knows which folders nobody owns any more, also where the site's scratch is on a disk that nodes share.
"""

import os
import secrets
import shutil
import signal
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from jobs.errors import InputError
from jobs.lease import Lease
from jobs.stop_signals import SIGNALS

_PREFIX = "idxtrain-job-"
_TRIES, _TRY_SECONDS = 20, 0.1


@contextmanager
def private_folder(parent: Path, name: str) -> Iterator[Path]:
    """Make a folder in `parent` whose name tells the job, mode 0700; remove it at the end, whatever is in it then.

    First it removes what killed jobs left in `parent`. Raises InputError where no folder can be made there.
    """
    folder = parent / f"{_PREFIX}{name}-{secrets.token_hex(4)}"
    with ExitStack() as held:
        try:
            _remove_abandoned(parent)
            held.enter_context(_lease(folder))  # before the folder is there: one without a lease is abandoned
            folder.mkdir(mode=0o700)
        except OSError as error:
            raise InputError(f"{parent}: is no scratch ({error.strerror}); mend the site's scratch") from error
        try:
            yield folder
        finally:
            # A second signal would leave half of it.
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            try:
                _remove(folder)
                held.close()
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _lease(folder: Path) -> Lease:
    return Lease(folder.with_name(f".{folder.name}.json"), f"scratch {folder}")


def _remove_abandoned(parent: Path) -> None:
    """Remove this user's own folders that nobody holds, and leases without a folder."""
    names = {path.name for path in parent.glob(f"{_PREFIX}*") if _is_ours(path, stat.S_IFDIR)}
    names |= {path.name[1:-5] for path in parent.glob(f".{_PREFIX}*.json") if _is_ours(path, stat.S_IFREG)}
    for name in names:
        with suppress(InputError, OSError), _lease(parent / name):  # held, or its lease is another user's
            _remove(parent / name)


def _is_ours(path: Path, kind: int) -> bool:
    """Tell whether a folder or file is this user's own: in a scratch that all users share, a name may be anybody's."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_IFMT(found.st_mode) == kind and found.st_uid == os.geteuid()


def _remove(folder: Path) -> None:
    """Remove a folder, also one into which a process that is about to end still writes."""
    for _ in range(_TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(_TRY_SECONDS)
