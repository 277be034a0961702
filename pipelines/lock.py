"""One process at a time works on a run: a lock that a dead owner does not hold for ever, on shared file systems too."""

import json
import os
import secrets
import socket
import threading
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

import psutil

from jobs.errors import InputError
from jobs.run_dir import RunDir

_REFRESH_SECONDS = 10.0
_STALE_SECONDS = 60.0  # six refreshes missed: its owner, on another host, is gone


class RunLock(AbstractContextManager["RunLock"]):
    """A lease: a file that its owner touches while it lives.

    File locks of the kernel do not reach across hosts on every shared file system; making a file that must not exist
    and renaming one do. An owner on this host is known by its process; one elsewhere by the age of the file, by the
    file system's own clock.
    """

    def __init__(self, run: RunDir) -> None:
        self._run, self._path = run, run.path / "lock.json"
        self._owner = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "began": psutil.Process().create_time(),
            "nonce": secrets.token_hex(8),
        }
        self._released = threading.Event()

    def __enter__(self) -> "RunLock":
        """Take the lock; raise InputError where another process, which lives, has it."""
        while not self._try():
            other = self._read()
            if other is not None and self._lives(other):
                raise InputError(
                    f"--run-id {self._run.run_id}: process {other.get('pid')} on {other.get('host')} is at work on it; "
                    "wait for it, or give another --run-id"
                )
            self._remove_stale()
        threading.Thread(target=self._refresh, name="run-lock", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._released.set()
        if self._read() == self._owner:
            self._path.unlink(missing_ok=True)

    def _try(self) -> bool:
        # Written aside and linked: whoever sees the lock sees all of it. A link fails where the name is taken.
        mine = self._path.with_name(f".{self._owner['nonce']}.lock")
        mine.write_text(json.dumps(self._owner), encoding="utf-8")
        try:
            os.link(mine, self._path)
        except FileExistsError:
            return False
        finally:
            mine.unlink()
        return True

    def _read(self) -> dict[str, Any] | None:
        try:
            owner = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return owner if isinstance(owner, dict) else None

    def _lives(self, owner: dict[str, Any]) -> bool:
        if owner.get("host") == self._owner["host"]:
            try:
                return bool(psutil.Process(int(owner["pid"])).create_time() == owner["began"])
            except (psutil.NoSuchProcess, KeyError, TypeError, ValueError):
                return False
        return self._age() < _STALE_SECONDS

    def _age(self) -> float:
        """Seconds since the owner last touched the lock, both times by the file system's clock."""
        probe = self._path.with_name(f".{self._owner['nonce']}.now")
        probe.touch()
        try:
            return probe.stat().st_mtime - self._path.stat().st_mtime
        except FileNotFoundError:
            return float("inf")
        finally:
            probe.unlink()

    def _remove_stale(self) -> None:
        # Of several that find it stale, one renames it; the others find a new one, or none.
        aside = self._path.with_name(f".{self._owner['nonce']}.stale")
        try:
            self._path.rename(aside)
        except FileNotFoundError:
            return
        aside.unlink()

    def _refresh(self) -> None:
        while not self._released.wait(_REFRESH_SECONDS):
            try:
                os.utime(self._path)
            except OSError:
                continue  # the file system is away: the next refresh may find it again
