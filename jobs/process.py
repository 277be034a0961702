"""How a process ends together with its parent, and how to recognize a process later."""

import ctypes
import os
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

PARENT = "IDXTRAIN_PARENT_PID"  # set by a process for a child that must end with it

_PR_SET_PDEATHSIG = 1  # prctl(2), Linux


def die_with_parent() -> None:
    """Ask the kernel to end this process when the one that started it ends, in whatever way.

    A launcher that is killed cannot end its ranks, and a training that continued without it would hold its GPUs for
    ever. If a foreign program lies between, such as a container's, this process ends with that program. Does nothing
    unless PARENT is set: a batch system ends its processes itself.

    The signal arrives once for each thread of the parent that ends: see `jobs.stop_signals.Requests`.
    """
    parent = os.environ.pop(PARENT, None)
    if not parent:
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if int(parent) not in {each.pid for each in psutil.Process().parents()}:  # it died before the request
        sys.exit("idxtrain: the process that started this one is gone")


@dataclass(frozen=True, kw_only=True)
class ProcessId:
    """The identity of one process: the kernel reuses PIDs, but not together with the start time of the process.

    `machine`: boot and PID namespace, the scope of a PID. `began`: clock ticks since boot, which no change of the clock
    affects.
    """

    host: str
    machine: str
    pid: int
    began: int

    def runs(self) -> bool | None:
        """Return whether the process runs; None if this process cannot see it: on another machine, or hidden."""
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
    return ProcessId(host=socket.gethostname(), machine=machine, pid=pid, began=_began(pid))


def _began(pid: int) -> int:
    """Return the start time of a process in clock ticks since boot; −1 if there is none, or only its zombie."""
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return -1
    fields = status.rpartition(b")")[2].split()  # proc(5): from the 3rd field, the state; the 22nd is the start time
    return -1 if fields[0] in (b"Z", b"X") else int(fields[19])


def _is_hidden(pid: int) -> bool:
    """Return whether a process exists that /proc does not show: another user's, under the mount option hidepid."""
    if Path(f"/proc/{pid}").exists():
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        pass
    return False
