"""A lease that one process at a time holds. It does not outlive its owner, and works on shared file systems."""

import json
import os
import re
import secrets
import signal
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
from jobs.logs import log
from jobs.process import ProcessId, this_process
from jobs.stop_signals import SIGNALS

_REFRESH_SECONDS = 10.0
_STALE_SECONDS = 60.0  # after six missed refreshes, an owner on another host counts as gone
_RETRIES, _RETRY_SECONDS = 100, 0.05  # while another process is taking it
_POLL_SECONDS = 0.5  # between two checks of a lease while waiting for it
_NONCE = re.compile(r"[0-9a-f]{16}")


class HeldError(InputError):
    """Another process, apparently alive, holds the lease. `why`: which process, and its sign of life."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what}: {why}; fix: wait for it")
        self.why = why


@dataclass(frozen=True, kw_only=True)
class Owner(ProcessId):
    """The process that holds a lease. `nonce`: unique to this lease."""

    nonce: str


class Lease(AbstractContextManager["Lease"]):
    """A file that its owner touches as long as it lives.

    Hand-rolled because the kernel's file locks do not reach across hosts on every shared file system. Linking a file to
    a name that must not exist does. An owner on this machine is checked by its process. An owner elsewhere is checked
    by the age of the file, on the file system's own clock.

    The lease of a dead owner is not removed but taken over. Only the process that links the name `.after-NONCE.lock`,
    with the dead owner's nonce, may replace the lease, and only while it still names that owner. Nonces are never
    reused. So a process that acts on an outdated check never takes the lease from its new owner.
    """

    def __init__(self, path: Path, what: str, *, waits: bool = False) -> None:
        """`path`: in an existing folder. `what`: what messages call the thing that is held, e.g. "run r1".

        `waits`: wait for a live owner, and log which one, instead of raising HeldError.
        """
        self._path, self._what, self._waits = path, what, waits
        self._me = Owner(**asdict(this_process()), nonce=secrets.token_hex(8))
        self._own_file = path.parent / f".{self._me.nonce}.lock"
        self._released = threading.Event()

    def __enter__(self) -> "Lease":
        """Take the lease. Raises HeldError if a live process holds it."""
        try:
            # Written aside and linked, so that a reader sees the whole lease or none.
            with naming_full_disk(self._path):
                _write(self._own_file, self._me)
            self._take()
        finally:
            self._own_file.unlink(missing_ok=True)
        threading.Thread(target=self._refresh, name="lease", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._released.set()
        claim = self._claim(self._me)
        # If the name exists, a process elsewhere saw no sign of life for a minute and is taking over.
        with suppress(OSError):  # the next process finds that this one is gone
            if _link(self._path, claim):
                if _read(self._path) == self._me:
                    self._path.unlink()
                claim.unlink(missing_ok=True)

    def _take(self) -> None:
        tries, waited_for = 0, ""
        while tries < _RETRIES:
            if _link(self._own_file, self._path):
                return
            holder = _read(self._path)
            if holder is None:  # released in the meantime
                tries += 1
                continue
            sign = self._sign_of_life(holder, self._path)
            if sign and _read(self._path) != holder:  # taken over meanwhile: the sign was the new owner's
                tries += 1
                continue
            if sign:
                self._wait_for(holder, sign, is_new=holder.nonce != waited_for)
                tries, waited_for = 0, holder.nonce
                continue
            with self._takeover(holder) as may_replace:
                if may_replace:
                    self._own_file.rename(self._path)
                    return
            tries += 1
            time.sleep(_RETRY_SECONDS)
        raise HeldError(self._what, f"other processes are taking {self._path} right now")

    def _wait_for(self, holder: Owner, sign: str, is_new: bool) -> None:
        """Wait a moment for a live owner. Raises instead if this lease does not wait."""
        who = f"process {holder.pid} on {holder.host} is working on it"
        if not self._waits:
            if holder.pid:
                raise HeldError(self._what, f"{who} ({sign})")
            raise InputError(f"{self._path}: names no process ({sign}); fix: wait, or remove it if no process uses it")
        if is_new:
            log.info("%s: %s; waiting", self._what, who if holder.pid else f"{self._path} names no process ({sign})")
        os.utime(self._own_file)  # `idxtrain prune` removes old ones, which dead processes left
        time.sleep(_POLL_SECONDS)

    @contextmanager
    def _takeover(self, dead: Owner) -> Iterator[bool]:
        """Yield whether this process, and no other, may replace the lease of a dead owner."""
        claims = [self._claim(dead)]
        while not _link(self._own_file, claims[-1]):
            rival = _read(claims[-1])
            if rival is None or self._sign_of_life(rival, claims[-1]):
                yield False
                return
            claim = self._claim(rival)  # it died during its takeover
            # Or the dead owner itself had the claim: it died while it released the lease.
            claims.append(claim if claim not in claims else claim.with_suffix(".released.lock"))
        try:
            yield _read(self._path) == dead
        finally:
            for claim in claims:
                claim.unlink(missing_ok=True)

    def _claim(self, owner: Owner) -> Path:
        return self._path.parent / f".after-{owner.nonce}.lock"

    def _sign_of_life(self, owner: Owner, path: Path) -> str:
        """Return an owner's sign of life; empty if there is none. `path`: the file that names it."""
        runs = owner.runs()
        if runs is not None:
            return "seen running just now" if runs else ""
        age = self._age(path)
        if age >= _STALE_SECONDS:
            return ""
        return f"last sign of life {max(0.0, age):.0f} s ago; after {_STALE_SECONDS:.0f} s it counts as gone"

    def _age(self, path: Path) -> float:
        """Return the seconds since a file was touched, by the file system's clock: those of the hosts may differ."""
        os.utime(self._own_file)
        try:
            return self._own_file.stat().st_mtime - path.stat().st_mtime
        except FileNotFoundError:  # released in the meantime
            return float("inf")

    def _refresh(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # the main thread handles them, and may defer them
        while not self._released.wait(_REFRESH_SECONDS):
            try:
                holder = _read(self._path)
                if holder == self._me:
                    os.utime(self._path)
                    continue
            except OSError:
                continue  # the file system is gone: it may be back at the next refresh
            if not self._released.is_set():
                self._stop(holder)
            return

    def _stop(self, holder: Owner | None) -> None:
        """Stop this process: it slept for so long that another process holds its lease."""
        event = f"process {holder.pid} on {holder.host} has taken" if holder else "someone has removed"
        print(f"warning: {event} the lock of {self._what}; stopping", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)


def living_owner(path: Path) -> Owner | None:
    """Return the process that holds a lease, if it appears to be alive, without touching anything.

    An owner elsewhere is judged by this host's clock, which may differ from the file system's: good enough to show.
    """
    try:
        owner = _read(path)
        age = time.time() - path.stat().st_mtime
    except OSError:
        return None
    if owner is None:
        return None
    runs = owner.runs()
    is_alive = age < _STALE_SECONDS if runs is None else runs
    return owner if is_alive and owner.pid else None


def _write(path: Path, owner: Owner) -> None:
    """Write the owner of a lease to a new file. Everyone may read it, whatever the umask: they wait for its owner."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 (a descriptor, not a path)
        os.fchmod(descriptor, 0o644)
        json.dump(asdict(owner), file)


def _read(path: Path) -> Owner | None:
    """Return the owner that a file names; None if there is no file. The owner of a torn file has no host and no PID."""
    try:
        with path.open("rb") as file:
            status, text = os.fstat(file.fileno()), file.read()
    except FileNotFoundError:
        return None
    try:
        raw = json.loads(text)
        owner = Owner(
            host=str(raw["host"]),
            machine=str(raw["machine"]),
            pid=raw["pid"],
            began=raw["began"],
            nonce=str(raw["nonce"]),
        )
        if _NONCE.fullmatch(owner.nonce) and isinstance(owner.pid, int) and isinstance(owner.began, int):
            return owner
    except (ValueError, KeyError, TypeError):  # after a power cut
        pass
    return Owner(host="", machine="torn", pid=0, began=0, nonce=f"{status.st_ino:x}-{status.st_mtime_ns:x}")


def _link(source: Path, name: Path) -> bool:
    """Give a file another name; return whether that name was free."""
    try:
        os.link(source, name)
    except FileExistsError:
        # A network file system that repeats a request whose answer was lost meets its own first request.
        with suppress(FileNotFoundError):
            return name.samefile(source)
        return False
    return True
