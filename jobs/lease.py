"""One process at a time holds a lease: one that a dead owner does not hold for ever, on shared file systems too."""

import json
import logging
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
from jobs.process import ProcessId, this_process
from jobs.stop_signals import SIGNALS

_REFRESH_SECONDS = 10.0
_STALE_SECONDS = 60.0  # six refreshes missed: its owner, on another host, is gone
_RETRIES, _RETRY_SECONDS = 100, 0.05  # while another process is just taking it
_POLL_SECONDS = 0.5  # between two looks at a lease that is waited for
_NONCE = re.compile(r"[0-9a-f]{16}")

log = logging.getLogger("idxtrain")


class HeldError(InputError):
    """Another process, which lives as far as one can see, has the lease. `why`: which, and what says that it lives."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what}: {why}; wait for it")
        self.why = why


@dataclass(frozen=True)
class Owner(ProcessId):
    """Who holds a lease. `nonce`: of this one lease alone."""

    nonce: str


class Lease(AbstractContextManager["Lease"]):
    """A file that its owner touches while it lives.

    File locks of the kernel do not reach across hosts on every shared file system; linking a file to a name that must
    not exist does. An owner on this machine is known by its process; one elsewhere by the age of the file, by the file
    system's own clock.

    The lease of a dead owner is not removed but succeeded. Only who links the name `.after-NONCE.lock`, of the dead
    owner's nonce, may replace that owner's lease, and only while it is still there; nonces do not come back. So a
    process that is late with its judgement never takes the lease from another that has it by now.
    """

    def __init__(self, path: Path, what: str, *, waits: bool = False) -> None:
        """`path`: in a folder that is there. `what`: what messages call the thing that is held, e.g. "run r1".

        `waits`: wait for an owner that lives, and log for whom, instead of raising HeldError.
        """
        self._path, self._what, self._waits = path, what, waits
        self._me = Owner(**asdict(this_process()), nonce=secrets.token_hex(8))
        self._mine = path.parent / f".{self._me.nonce}.lock"
        self._released = threading.Event()

    def __enter__(self) -> "Lease":
        """Take the lease; raise HeldError where another process, which lives, has it."""
        try:
            # Written aside and linked: whoever sees the lease sees all of it.
            with naming_full_disk(self._path):
                _write(self._mine, self._me)
            self._take()
        finally:
            self._mine.unlink(missing_ok=True)
        threading.Thread(target=self._refresh, name="lease", daemon=True).start()
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
        tries, waited_for = 0, ""
        while tries < _RETRIES:
            if _link(self._mine, self._path):
                return
            holder = _read(self._path)
            if holder is None:  # released meanwhile
                tries += 1
                continue
            sign = self._sign_of_life(holder, self._path)
            if sign:
                self._wait_for(holder, sign, is_news=holder.nonce != waited_for)
                tries, waited_for = 0, holder.nonce
                continue
            with self._succession(holder) as is_mine:
                if is_mine:
                    self._mine.rename(self._path)
                    return
            tries += 1
            time.sleep(_RETRY_SECONDS)
        raise HeldError(self._what, f"others are taking {self._path} at this moment")

    def _wait_for(self, holder: Owner, sign: str, is_news: bool) -> None:
        """Wait a moment for an owner that lives; raise instead where this lease is not to be waited for."""
        who = f"process {holder.pid} on {holder.host} is at work on it"
        if not self._waits:
            if holder.pid:
                raise HeldError(self._what, f"{who} ({sign})")
            raise InputError(f"{self._path}: names no process ({sign}); wait, or remove it if none is at work there")
        if is_news:
            log.info("%s: %s; waiting", self._what, who if holder.pid else f"{self._path} names no process ({sign})")
        os.utime(self._mine)  # `idxtrain prune` takes an old one for a dead process's
        time.sleep(_POLL_SECONDS)

    @contextmanager
    def _succession(self, dead: Owner) -> Iterator[bool]:
        """Tell whether this process, alone of all, may replace the lease of a dead owner."""
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
        return self._path.parent / f".after-{owner.nonce}.lock"

    def _sign_of_life(self, owner: Owner, path: Path) -> str:
        """Return what says that an owner lives, or an empty text. `path`: the file that names it."""
        runs = owner.runs()
        if runs is not None:
            return "seen running just now" if runs else ""
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
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # they are for the main thread, which may hold them back
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
        """Stop this process, which slept for so long that what it held is another's now."""
        by = f"process {holder.pid} on {holder.host} has" if holder else "somebody has removed"
        print(f"warning: {by} the lock of {self._what}; stopping", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)


def _write(path: Path, owner: Owner) -> None:
    """Write who holds a lease into a new file. Whatever the umask, all may read it: they wait for whom it names."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 (a descriptor, not a path)
        os.fchmod(descriptor, 0o644)
        json.dump(asdict(owner), file)


def _read(path: Path) -> Owner | None:
    """Return the owner that a file names; None where there is no file. A torn file's has neither host nor PID."""
    try:
        with path.open("rb") as file:
            status, text = os.fstat(file.fileno()), file.read()
    except FileNotFoundError:
        return None
    try:
        found = json.loads(text)
        owner = Owner(str(found["host"]), str(found["machine"]), found["pid"], found["began"], str(found["nonce"]))
        if _NONCE.fullmatch(owner.nonce) and isinstance(owner.pid, int) and isinstance(owner.began, int):
            return owner
    except (ValueError, KeyError, TypeError):  # after a power cut
        pass
    return Owner("", "torn", 0, 0, f"{status.st_ino:x}-{status.st_mtime_ns:x}")


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
