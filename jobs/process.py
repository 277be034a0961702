"""A process's ties to the one that started it."""

import ctypes
import os
import signal
import sys

PARENT = "IDXTRAIN_PARENT_PID"  # set by whoever starts a process that is to end with it

_PR_SET_PDEATHSIG = 1  # prctl(2), Linux


def die_with_parent() -> None:
    """Ask the kernel to end this process when the one that started it is gone, however that ended.

    A launcher that is killed cannot end its ranks, and a training that goes on without it would hold its GPUs for ever.
    Where a program of another's lies between, as a container's, its end is what ends this process. Nothing happens
    where nobody asked for it (PARENT is not set, or empty), as under a batch system, which sees to it itself.
    """
    parent = os.environ.pop(PARENT, None)
    if not parent:
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent) and not _alive(int(parent)):  # it died before the kernel knew
        sys.exit(1)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True
