"""Programs that are asked something: bounded in time, and never a traceback of ours when they crash."""

import json
import re
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from jobs.errors import IdxtrainError

_GRACE_SECONDS = 5
_LONGEST_CAUSE = 200
_RANK_PREFIX = re.compile(r"^\[rank \d+\] ")  # what deploy.launcher.launcher puts before a rank's lines
_NOISE = re.compile(r"^(?:[IWE]\d{4} |\d{4}-\d\d-\d\d .*: [IWE] |WARNING: )")  # TensorFlow's log lines
_EXCEPTION = re.compile(r"^[A-Za-z_][\w.]*(?:Error|Exception): ")


class ProbeError(IdxtrainError):
    """A program did not answer. The message is the cause on one line."""


@dataclass(frozen=True)
class Answer:
    """How a program ended; `code` is negative for a signal, as in `subprocess`."""

    code: int
    stdout: str
    stderr: str


def ask(argv: Sequence[str], environment: Mapping[str, str], seconds: float, text: str = "") -> Answer:
    """Run a program to its end, with `text` on its stdin.

    Raises ProbeError where it cannot be started, or is not done in time; nothing it started outlives it.
    """
    try:
        return _ask(argv, environment, seconds, text)
    except OSError as error:
        raise ProbeError(f"{error.filename or argv[0]} cannot be started: {error.strerror}") from error


def _ask(argv: Sequence[str], environment: Mapping[str, str], seconds: float, text: str) -> Answer:
    # Files, not pipes: a grandchild that kept a pipe open would make us wait for it.
    with tempfile.TemporaryFile("w+") as stdin, tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        stdin.write(text)
        stdin.seek(0)
        process = subprocess.Popen(argv, env=dict(environment), stdin=stdin, stdout=stdout, stderr=stderr)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise ProbeError(f"no answer in {seconds:g} s") from None
        finally:  # also on Ctrl-C
            if process.poll() is None:
                _end(process)
        stdout.seek(0)
        stderr.seek(0)
        return Answer(code, stdout.read().decode(errors="replace"), stderr.read().decode(errors="replace"))


def ask_json(argv: Sequence[str], environment: Mapping[str, str], seconds: float) -> dict[str, Any]:
    """Run a program whose answer is a line of JSON on stdout; raise ProbeError where it gives none."""
    answer = ask(argv, environment, seconds)
    if answer.code == 0:
        for line in reversed(answer.stdout.splitlines()):
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                return value
    raise ProbeError(cause(answer))


def cause(answer: Answer) -> str:
    """Return why a program failed, on one line: the first exception of a rank, else of any, else its last words."""
    if answer.code < 0:
        return f"killed by {_signal_name(-answer.code)}"
    said = (answer.stderr if answer.stderr.strip() else answer.stdout).splitlines()
    of_ranks = [line for line in said if _RANK_PREFIX.match(line)]
    # A rank's second exception, and the launcher's, only follow from the first.
    lines = [_RANK_PREFIX.sub("", line) for line in [*of_ranks, *said]]
    lines = [line for line in lines if line.strip() and not _NOISE.match(line)]
    exceptions = [line for line in lines if _EXCEPTION.match(line)]
    exit_code = f"exit code {answer.code}, without a word"
    return next(iter([*exceptions, *lines[-1:], exit_code])).strip()[:_LONGEST_CAUSE]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a program and all it started; its ranks may be deaf to a SIGTERM."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    process.terminate()
    try:
        process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    _, alive = psutil.wait_procs(family, timeout=_GRACE_SECONDS)
    for child in alive:
        child.kill()
