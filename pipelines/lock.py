"""One process at a time works on a run: a lock that a dead owner does not hold for ever, on shared file systems too."""

import json
import os
import re
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from jobs.errors import InputError
from jobs.files import naming_full_disk
from jobs.run_dir import RunDir

_REFRESH_SECONDS = 10.0
_STALE_SECONDS = 60.0  # six refreshes missed: its owner, on another host, is gone
_RETRIES, _RETRY_SECONDS = 100, 0.05  # while another process is just taking it
_NONCE = re.compile(r"[0-9a-f]{16}")


class LockedError(InputError):
    """Another process, which lives as far as one can see, works on the run."""


@dataclass(frozen=True)
class Owner:
    """Who holds a lock. `began`: when the process began, in clock ticks since boot, which no setting of a clock moves.

    `machine`: boot and PID namespace. Within one, a PID and its begin name one process; containers may share a host
    name and not see each other's processes.
    """

    nonce: str
    host: str
    machine: str
    pid: int
    began: int


class RunLock(AbstractContextManager["RunLock"]):
    """A lease: a file that its owner touches while it lives.

    File locks of the kernel do not reach across hosts on every shared file system; linking a file to a name that must
    not exist does. An owner on this machine is known by its process; one elsewhere by the age of the file, by the file
    system's own clock.

    The lock of a dead owner is not removed but succeeded. Only who links the name `.after-NONCE.lock`, of the dead
    owner's nonce, may replace that owner's lock, and only while it is still there; nonces do not come back. So a
    process that is late with its judgement never takes the lock from another that has it by now.
    """

    def __init__(self, run: RunDir) -> None:
        self._run, self._path = run, run.path / "lock.json"
        self._me = _this_process()
        self._mine = run.path / f".{self._me.nonce}.lock"
        self._released = threading.Event()

    def __enter__(self) -> "RunLock":
        """Take the lock; raise InputError where another process, which lives, has it."""
        try:
            # Written aside and linked: whoever sees the lock sees all of it.
            with naming_full_disk(self._path):
                self._mine.write_text(json.dumps(asdict(self._me)), encoding="utf-8")
            self._take()
        finally:
            self._mine.unlink(missing_ok=True)
        threading.Thread(target=self._refresh, name="run-lock", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._released.set()
        claim = self._claim(self._me)
        # Where the name is taken, a process elsewhere has not seen this one live for a minute, and succeeds it.
        with suppress(OSError):  # the next process sees that this one is gone
            if _link(self._path, claim):
                if _read(self._path) == self._me:
                    self._path.unlink()
                claim.unlink(missing_ok=True)

    def _take(self) -> None:
        for _ in range(_RETRIES):
            if _link(self._mine, self._path):
                return
            holder = _read(self._path)
            if holder is None:  # released meanwhile
                continue
            self._require_dead(holder)
            with self._succession(holder) as is_mine:
                if is_mine:
                    self._mine.rename(self._path)
                    return
            time.sleep(_RETRY_SECONDS)
        raise LockedError(f"--run-id {self._run.run_id}: others are taking {self._path} at this moment; try again")

    @contextmanager
    def _succession(self, dead: Owner) -> Iterator[bool]:
        """Tell whether this process, alone of all, may replace the lock of a dead owner."""
        claims = [self._claim(dead)]
        while not _link(self._mine, claims[-1]):
            rival = _read(claims[-1])
            if rival is None or self._sign_of_life(rival, claims[-1]):
                yield False
                return
            claims.append(self._claim(rival))  # it died as it was about to succeed
        try:
            yield _read(self._path) == dead
        finally:
            for claim in claims:
                claim.unlink(missing_ok=True)

    def _claim(self, owner: Owner) -> Path:
        return self._run.path / f".after-{owner.nonce}.lock"

    def _require_dead(self, holder: Owner) -> None:
        sign = self._sign_of_life(holder, self._path)
        if sign and holder.pid:
            raise LockedError(
                f"--run-id {self._run.run_id}: process {holder.pid} on {holder.host} is at work on it ({sign}); "
                "wait for it, or give another --run-id"
            )
        if sign:
            raise InputError(f"{self._path}: names no process ({sign}); wait, or remove it if none is at work there")

    def _sign_of_life(self, owner: Owner, path: Path) -> str:
        """Return what says that an owner lives, or an empty text. `path`: the file that names it."""
        if (owner.host, owner.machine) == (self._me.host, self._me.machine):
            return "seen running just now" if 0 <= owner.began == _begin_of(owner.pid) else ""
        age = self._age(path)
        if age >= _STALE_SECONDS:
            return ""
        return f"last sign of life {max(0.0, age):.0f} s ago; after {_STALE_SECONDS:.0f} s it counts as gone"

    def _age(self, path: Path) -> float:
        """Return the seconds since a file was last touched, by the file system's clock: hosts' own may differ."""
        os.utime(self._mine)
        try:
            return self._mine.stat().st_mtime - path.stat().st_mtime
        except FileNotFoundError:  # released meanwhile
            return float("inf")

    def _refresh(self) -> None:
        while not self._released.wait(_REFRESH_SECONDS):
            try:
                holder = _read(self._path)
                if holder == self._me:
                    os.utime(self._path)
                    continue
            except OSError:
                continue  # the file system is away: the next refresh may find it again
            if not self._released.is_set():
                self._stop(holder)
            return

    def _stop(self, holder: Owner | None) -> None:
        """Stop this process, which slept for so long that the run is another's now."""
        by = f"process {holder.pid} on {holder.host} has" if holder else "somebody has removed"
        print(f"warning: {by} the lock of run {self._run.run_id}; stopping", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)


def _this_process() -> Owner:
    pid, machine = os.getpid(), ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        machine = f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return Owner(secrets.token_hex(8), socket.gethostname(), machine, pid, _begin_of(pid))


def _begin_of(pid: int) -> int:
    """Return when a process began, in clock ticks since boot; −1 where there is none, or only its zombie."""
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return -1
    fields = status.rpartition(b")")[2].split()  # proc(5): from the 3rd field, the state, on; the 22nd is the begin
    return -1 if fields[0] in (b"Z", b"X") else int(fields[19])


def _read(path: Path) -> Owner | None:
    """Return the owner that a file names; None where there is no file. A torn file's has neither host nor PID."""
    try:
        with path.open("rb") as file:
            status, text = os.fstat(file.fileno()), file.read()
    except FileNotFoundError:
        return None
    try:
        found = json.loads(text)
        owner = Owner(str(found["nonce"]), str(found["host"]), str(found["machine"]), found["pid"], found["began"])
        if _NONCE.fullmatch(owner.nonce) and isinstance(owner.pid, int) and isinstance(owner.began, int):
            return owner
    except (ValueError, KeyError, TypeError):  # after a power cut
        pass
    return Owner(f"{status.st_ino:x}-{status.st_mtime_ns:x}", "", "torn", 0, 0)


def _link(source: Path, name: Path) -> bool:
    """Give a file another name; tell whether that name was free."""
    try:
        os.link(source, name)
    except FileExistsError:
        # A network file system that repeats a request, its answer lost, meets its own first one.
        with suppress(FileNotFoundError):
            return name.samefile(source)
        return False
    return True
