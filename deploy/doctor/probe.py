"""Run other programs for an answer: with a time limit, and with a one-line cause if they fail."""

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
_RANK_PREFIX = re.compile(r"^\[rank \d+\] ")  # what deploy.launcher.ranks writes before a rank's lines
_NOISE = re.compile(r"^(?:[IWE]\d{4} |\d{4}-\d\d-\d\d .*: [IWE] |WARNING: )")  # TensorFlow's log lines
_EXCEPTION = re.compile(r"^[A-Za-z_][\w.]*(?:Error|Exception): ")


class ProbeError(IdxtrainError):
    """A program gave no answer. The message is the cause, on one line."""


@dataclass(frozen=True)
class Answer:
    """The result of a program. `code`: its exit code; negative for a signal, as in `subprocess`."""

    code: int
    stdout: str
    stderr: str


def ask(argv: Sequence[str], environment: Mapping[str, str], seconds: float, text: str = "") -> Answer:
    """Run a program to its end, with `text` on its stdin.

    Raises ProbeError if it cannot be started or does not end in time. None of its child processes survives.
    """
    try:
        return _ask(argv, environment, seconds, text)
    except OSError as error:
        raise ProbeError(f"{error.filename or argv[0]} cannot be started: {error.strerror}") from error


def _ask(argv: Sequence[str], environment: Mapping[str, str], seconds: float, text: str) -> Answer:
    # Files instead of pipes: a grandchild that keeps a pipe open would block the reader.
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
    """Run a program and return the last JSON object that it prints on stdout; raise ProbeError if there is none."""
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
    """Return why a program failed, on one line: the first exception, a rank's before others; else its last line."""
    if answer.code < 0:
        return f"killed by {_signal_name(-answer.code)}"
    output = (answer.stderr if answer.stderr.strip() else answer.stdout).splitlines()
    of_ranks = [line for line in output if _RANK_PREFIX.match(line)]
    # Later exceptions, and the launcher's, are consequences of the first.
    lines = [_RANK_PREFIX.sub("", line) for line in [*of_ranks, *output]]
    lines = [line for line in lines if line.strip() and not _NOISE.match(line)]
    exceptions = [line for line in lines if _EXCEPTION.match(line)]
    exit_code = f"exit code {answer.code}, no output"
    return next(iter([*exceptions, *lines[-1:], exit_code])).strip()[:_LONGEST_CAUSE]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a program and all its descendants. SIGKILL follows, because ranks may ignore SIGTERM."""
    try:
        descendants = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        descendants = []
    process.terminate()
    try:
        process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    _, alive = psutil.wait_procs(descendants, timeout=_GRACE_SECONDS)
    for child in alive:
        child.kill()
