"""python -m deploy.serving.follow WORK NAME WHICH FOLDER: report which model is to be served, now and when it changes.

A process of its own, started by the server: so MLflow, which takes seconds and 200 MB to import and changes settings of
its whole process, stays out of the process that answers requests. Each line on stdout is a JSON object, an `Event`. The
model file of each is in FOLDER, verified by its SHA-256. WHICH: a version, alias or run ID. An alias is followed until
the process is ended; else the process ends after the first line.
"""

import os
import select
import sys
import time
from pathlib import Path
from typing import IO, Any, TextIO

from deploy.registry.registry import Registry
from deploy.registry.tracking import RegistryDownError
from deploy.registry.versions import ALIASES, Version
from deploy.serving.events import Event
from jobs.errors import IdxtrainError, InputError, one_line
from jobs.exit_codes import exit_codes
from jobs.process import die_with_parent
from jobs.run_dir import Work

POLL_SECONDS = 1.0  # a promotion is to be served within 5 s
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 300.0  # seconds until a version that could not be served is fetched again


def main(work: Path, name: str, which: str, folder: Path) -> None:
    """Write events until the process is ended."""
    die_with_parent()
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print
    follower = _Follower(Work(work), name, which, folder, events=events, answers=sys.stdin)
    while follower.poll():
        if which not in ALIASES:
            return
        time.sleep(POLL_SECONDS)
    sys.exit(IdxtrainError.exit_code)  # so that another process looks again, if there is a model meanwhile


_Key = tuple[int, str]  # a version's number and the SHA-256 of its model


class _Follower:
    def __init__(self, work: Work, name: str, which: str, folder: Path, *, events: TextIO, answers: IO[Any]) -> None:
        """`answers`: has a line for each model that the server could not serve, see `REFUSED`."""
        self._answers = answers
        self._work, self._name, self._which, self._folder, self._events = work, name, which, folder, events
        self._registry: Registry | None = None
        self._has_first = False
        self._handed_over: _Key | None = None
        self._tried: _Key | None = None  # last
        self._pause, self._retry_at = 0.0, 0.0
        self._trouble = ""

    def poll(self) -> bool:
        """Look once; return False if there is no first model, and none is to be expected."""
        try:
            self._look()
        except Exception as error:  # MLflow and its stores raise anything
            message = one_line(error)[:500]
            if not self._has_first:
                code = getattr(error, "exit_code", IdxtrainError.exit_code)
                self._write(Event(error=message, exit_code=code, is_away=isinstance(error, RegistryDownError)))
                return False
            self._report(message)
        return True

    def _look(self) -> None:
        self._registry = self._registry or Registry(self._work, self._name, os.environ)
        version = self._registry.find(self._which)
        key = (version.number, version.model_sha256)
        if self._is_refused():
            self._handed_over, self._retry_at = None, time.monotonic() + self._pause
        if key == self._handed_over:
            self._report("")
        elif key != self._tried or time.monotonic() >= self._retry_at:
            self._pause = min(2 * self._pause, _LONGEST_PAUSE) if key == self._tried else _FIRST_PAUSE
            self._tried, self._retry_at = key, time.monotonic() + self._pause
            self._fetch(self._registry, version)
            self._handed_over, self._has_first, self._trouble = key, True, ""

    def _is_refused(self) -> bool:
        """Return whether the server has answered that it cannot serve what it got last."""
        return bool(select.select([self._answers], [], [], 0)[0] and os.read(self._answers.fileno(), 4096))

    def _fetch(self, registry: Registry, version: Version) -> None:
        path = registry.model_file(version, self._folder)
        self._write(
            Event(
                title=f"{self._name} version {version.number}",
                path=str(path),
                sha256=version.model_sha256,
                version=version.number,
                run_id=version.run_id,
                manifest=registry.manifest(version).model_dump_json(),
            )
        )

    def _report(self, trouble: str) -> None:
        """Write a change of whether the registry can be followed. `trouble`: empty if it can."""
        if trouble != self._trouble:
            self._trouble = trouble
            self._write(Event(trouble=trouble))

    def _write(self, event: Event) -> None:
        print(event.model_dump_json(), file=self._events, flush=True)


if __name__ == "__main__":
    with exit_codes():
        if len(sys.argv) != 5:
            raise InputError(f"found {len(sys.argv) - 1} arguments, expected WORK NAME WHICH FOLDER")
        main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4]))
