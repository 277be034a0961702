"""A process's ties to the one that started it, and how one knows another again."""

import ctypes
import os
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

PARENT = "IDXTRAIN_PARENT_PID"  # set by whoever starts a process that is to end with it

_PR_SET_PDEATHSIG = 1  # prctl(2), Linux


def die_with_parent() -> None:
    """Ask the kernel to end this process when the one that started it is gone, however that ended.

    A launcher that is killed cannot end its ranks, and a training that goes on without it would hold its GPUs for ever.
    Where a program of another's lies between, as a container's, its end is what ends this process. Nothing happens
    where nobody asked for it (PARENT is not set, or empty), as under a batch system, which sees to it itself.

    The signal comes once for each thread of the parent that ends: see `jobs.stop_signals.Requests`.
    """
    parent = os.environ.pop(PARENT, None)
    if not parent:
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if int(parent) not in {each.pid for each in psutil.Process().parents()}:  # it died before the kernel knew
        sys.exit("idxtrain: the process that started this one is gone")


@dataclass(frozen=True)
class ProcessId:
    """One process for good: PIDs come back, but not together with the moment at which their process began.

    `machine`: boot and PID namespace, within which that holds. `began`: in clock ticks since boot, which no setting of
    a clock moves.
    """

    host: str
    machine: str
    pid: int
    began: int

    def runs(self) -> bool | None:
        """Return whether the process runs; None where that cannot be known here: on another machine, or hidden."""
        here = this_process()
        if (self.host, self.machine) != (here.host, here.machine) or _is_hidden(self.pid):
            return None
        return 0 <= self.began == _began(self.pid)


def this_process() -> ProcessId:
    """Return the identity of this process."""
    pid, machine = os.getpid(), ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        machine = f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return ProcessId(socket.gethostname(), machine, pid, _began(pid))


def _began(pid: int) -> int:
    """Return when a process began, in clock ticks since boot; −1 where there is none, or only its zombie."""
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return -1
    fields = status.rpartition(b")")[2].split()  # proc(5): from the 3rd field, the state, on; the 22nd is the begin
    return -1 if fields[0] in (b"Z", b"X") else int(fields[19])


def _is_hidden(pid: int) -> bool:
    """Tell whether there is a process that /proc does not show: another user's, where it is mounted with hidepid."""
    if Path(f"/proc/{pid}").exists():
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        pass
    return False
