"""A process's ties to the one that started it."""

import ctypes
import os
import signal
import sys

import psutil

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
    if int(parent) not in {each.pid for each in psutil.Process().parents()}:  # it died before the kernel knew
        sys.exit("idxtrain: the process that started this one is gone")
