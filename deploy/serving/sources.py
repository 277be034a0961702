"""Where the models come from: one run's, or those that a name in the registry stands for, one after the other."""

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from deploy.serving.candidate import Candidate
from deploy.serving.events import REFUSED, Event
from jobs.errors import IdxtrainError, InputError
from jobs.process import PARENT
from jobs.python import module_command

START_SECONDS = 60.0  # for which a registry that does not answer is waited for
_RESTART_SECONDS = 5.0


class Source(Protocol):
    """Yields a Candidate for each model to serve, the first one first, and between them what troubles the source.

    A text is the trouble, empty once it is over.
    """

    def candidates(self) -> Iterator[Candidate | str]:
        """Yield until there can be no other model, or `close` is called. Raises an error if there is no first model."""
        ...

    def refused(self) -> None:
        """Take note that the last Candidate could not be served: it is to come again later."""
        ...

    def close(self) -> None:
        """End what the source started. Called once, from another thread."""
        ...


class OneModel:
    """A single model."""

    def __init__(self, candidate: Candidate) -> None:
        self._candidate = candidate

    def candidates(self) -> Iterator[Candidate | str]:
        """Yield the model."""
        yield self._candidate

    def refused(self) -> None:
        """Do nothing: there is no other model to serve meanwhile."""

    def close(self) -> None:
        """Do nothing."""


class FollowedModel:
    """What an alias, a version or a run ID of a registered model stands for, by `deploy.serving.follow`."""

    def __init__(self, work: Path, name: str, which: str) -> None:
        self._arguments = (str(work.absolute()), name, which)
        self._closed = threading.Event()
        self._process: subprocess.Popen[str] | None = None

    def candidates(self) -> Iterator[Candidate | str]:
        """Yield the models. If the process ends, another one replaces it.

        Before the first model, a registry that does not answer is waited for, START_SECONDS long.
        """
        has_first, deadline = False, time.monotonic() + START_SECONDS
        with tempfile.TemporaryDirectory(prefix="idxtrain-serve-", ignore_cleanup_errors=True) as folder:
            while not self._closed.is_set():
                event: Event | None = None
                for event in self._events(folder):
                    if event.path:
                        has_first = True
                        yield event.candidate()
                        Path(event.path).unlink(missing_ok=True)  # it is in memory
                    elif has_first:
                        yield event.error or event.trouble
                    elif event.is_away and time.monotonic() < deadline:
                        yield event.error
                    elif event.error:
                        raise _error(event)
                if self._closed.is_set() or self._is_done():
                    return
                if has_first:
                    yield "the process that follows the model registry ended; another one starts"
                elif not event or not event.is_away:
                    raise IdxtrainError("the process that reads the model registry ended without a model")
                self._closed.wait(_RESTART_SECONDS)

    def _events(self, folder: str) -> Iterator[Event]:
        command = module_command("deploy.serving.follow", *self._arguments, folder)
        environment = os.environ | {PARENT: str(os.getpid())}
        # A session of its own: Ctrl-C is meant for the server, which ends this process when it has drained. Popen
        # starts it by vfork and exec, which is safe in a process of many threads.
        with subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,  # see `refused`
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        ) as process:
            self._process = process
            if self._closed.is_set():  # `close` came before
                process.terminate()
            try:
                for line in process.stdout or ():
                    yield Event.model_validate_json(line)
            finally:
                process.terminate()  # or the end of `with` would wait for ever where nobody reads on

    def _is_done(self) -> bool:
        return self._process is not None and self._process.returncode == 0

    def refused(self) -> None:
        """Ask the process to hand the last model over again later."""
        if self._process is not None and self._process.stdin is not None:
            with suppress(OSError):  # it has ended: the next one begins with this model
                print(REFUSED, file=self._process.stdin, flush=True)

    def close(self) -> None:
        """End the process."""
        self._closed.set()
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)


def _error(event: Event) -> IdxtrainError:
    kind = InputError if event.exit_code == InputError.exit_code else IdxtrainError
    return kind(event.error)
