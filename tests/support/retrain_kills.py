"""Kill trials of retraining: SIGHUP, a closed terminal, and SIGKILL of each of its processes.

    python -m tests.support.retrain_kills FOLDER SEED

strikes a retraining twenty times, starts the same command again at once each time, and prints a table. It ends with 0
if every promise held: a checkpoint at most `checkpoint_every` steps old, never two trainers, one line of error each.
"""

import json
import os
import pty
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil

EVERY = 20  # steps between two checkpoints
LOG_EVERY = 10
SETTINGS = {
    "train.batch_size": 16,
    "train.learning_rate": 0.001,
    "train.log_every": LOG_EVERY,
    "train.checkpoint_every_steps": EVERY,
    "train.keep_checkpoints": 3,
    "launch.max_restarts": 3,
    "gate.min_accuracy": 0.1,
}
# How a retraining is struck: the word in the victim's command line, and the signal; None closes the terminal.
WAYS = {
    "fetch": ("jobs.fetch", signal.SIGKILL),
    "prepare": ("jobs.prepare", signal.SIGKILL),
    "Spark's Java": ("/bin/java", signal.SIGKILL),
    "launcher": ("deploy.launcher", signal.SIGKILL),
    "rank": ("jobs.train", signal.SIGKILL),
    "evaluate": ("jobs.evaluate", signal.SIGKILL),
    "idxtrain": ("pipelines.cli", signal.SIGKILL),
    "hang-up": ("pipelines.cli", signal.SIGHUP),
    "terminal": ("pipelines.cli", None),
}
_SECONDS = 240.0


@dataclass(frozen=True)
class Strike:
    """A planned strike: a key of WAYS, the stage ("registry": after the last stage), and the least training step."""

    how: str
    stage: str = "train"
    step: int = 0


@dataclass
class Struck:
    """The result of a strike. `step`: of the training then, 0 before it. `saved`: the step of the newest checkpoint.

    `age`: seconds from that checkpoint to the strike, negative if it was written later. `code`: the exit code. `lines`:
    the error lines. `again`: what the same command did, started again at once.
    """

    strike: Strike
    step: int
    saved: int = 0
    age: float = 0.0
    code: int | None = None
    lines: list[str] = field(default_factory=list)
    again: str = ""


class Session:
    """One `idxtrain retrain`, with its output in a file or in its own terminal, which is copied to that file."""

    def __init__(self, folder: Path, steps: int, number: int, in_terminal: bool) -> None:
        self._log = folder / f"session-{number}.log"
        settings = [f"--set={key}={value}" for key, value in {**SETTINGS, "train.max_steps": steps}.items()]
        options = ["--recipe", "lecture", "--np", "2", "--data", str(folder / "data"), "--work", str(folder / "work")]
        options += ["--notify", f"tee -a {folder / 'notified.txt'}"]
        command = [sys.executable, "-m", "pipelines.cli", "retrain", *options, *settings]
        self._terminal: int | None = None
        self._begin = 0
        if not in_terminal:
            with self._log.open("wb") as log:
                self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            return
        self._terminal, inner = pty.openpty()
        os.set_blocking(self._terminal, False)
        command = [sys.executable, "-c", _IN_TERMINAL, *command]
        self.process = subprocess.Popen(command, stdin=inner, stdout=inner, stderr=inner, start_new_session=True)
        os.close(inner)

    def output(self) -> str:
        """Return the output since the last strike that the session survived."""
        if self._terminal is not None:  # also lets processes that write to it continue
            with suppress(OSError), self._log.open("ab") as log:
                while data := os.read(self._terminal, 65536):
                    log.write(data)
        return self._log.read_bytes()[self._begin :].decode(errors="replace") if self._log.exists() else ""

    def has_printed(self, words: str) -> bool:
        return words in self.output()

    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def lines(self) -> list[str]:
        """Return the error lines."""
        return [line.partition("idxtrain: ")[2] for line in self.output().splitlines() if "idxtrain: " in line]

    def forget(self) -> None:
        """Ignore the output so far."""
        self._begin = self._log.stat().st_size

    def hang_up(self) -> None:
        """Close the terminal."""
        self.output()
        assert self._terminal is not None
        os.close(self._terminal)
        self._terminal = None


# Makes its terminal the controlling one, as a login does.
_IN_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Trainers:
    """The launchers whose ranks train, watched all the time. `most`: the most of them at one time."""

    def __init__(self, work: Path) -> None:
        self._runs, self._launcher = str(work / "runs"), dict[int, int]()
        self.most = 0

    def look(self) -> list[psutil.Process]:
        """Return the running ranks, and update `most`."""
        ranks = [process for process in processes(self._runs) if is_called(process, "jobs.train")]
        for rank in ranks:
            with suppress(psutil.NoSuchProcess):
                self._launcher.setdefault(rank.pid, rank.ppid())
        # A rank's child process has the rank's command line until it runs its own program.
        launchers = {self._launcher[rank.pid] for rank in ranks if rank.pid in self._launcher}
        self.most = max(self.most, len(launchers - {rank.pid for rank in ranks}))
        return ranks


def processes(word: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if any(word in part for part in process.cmdline()):
                yield process


def is_called(process: psutil.Process, mark: str) -> bool:
    """Return whether a process runs `mark`, by the head of its command line: later words name what it launches."""
    with suppress(psutil.NoSuchProcess):
        return any(mark in word for word in process.cmdline()[:4])
    return False


def family(process: "subprocess.Popen[bytes]", mark: str) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        top = psutil.Process(process.pid)
        below = [each for each in top.children(recursive=True) if not _is_a_fork(each)]
        return [each for each in (top, *below) if is_called(each, mark)]
    return []


def _is_a_fork(process: psutil.Process) -> bool:
    """Return whether a process still has its parent's command line, as it is about to run another program."""
    with suppress(psutil.NoSuchProcess):
        parent = process.parent()
        return parent is not None and parent.cmdline() == process.cmdline()
    return True


class Trial:
    """A retraining of FOLDER/data that is struck again and again."""

    def __init__(self, folder: Path, steps: int, seed: int) -> None:
        self._folder, self._steps, self._dice = folder, steps, random.Random(seed)  # noqa: S311 (no secret)
        self._runs = folder / "work/runs"
        self._sessions = 0
        self.trainers = Trainers(folder / "work")

    def run(self, planned: Sequence[Strike]) -> tuple[list[Struck], str]:
        """Strike as planned, then let the retraining end; return the results, and the last line of output."""
        done: list[Struck] = []
        session = self._start(planned[0])
        for strike, after in zip(planned, [*planned[1:], None], strict=True):
            victims = self._find_victims(session, strike)
            struck, moment = Struck(strike, self.step()), time.time()
            victim, number = self._dice.choice(victims), WAYS[strike.how][1]
            session.hang_up() if number is None else victim.send_signal(number)
            if strike.how == "rank":
                self._until(session, partial(session.has_printed, "(restart "))
                struck.lines, struck.again = session.lines(), "restarted by its launcher"
                session.forget()
            else:
                before, session = session, self._start(after)  # while the old ranks may still save
                self._until(session, before.has_ended)
                self._until(session, partial(self._has_resumed, session))
                if session.output().startswith("nothing done: "):
                    struck.again, session = "refused, then ", self._start(after)
                    self._until(session, partial(self._has_resumed, session))
                struck.code = before.process.returncode
                struck.lines = before.lines() or self._logged_errors(strike.stage, moment)
                struck.again += "waited, resumed" if "waiting for an earlier" in session.output() else "resumed"
            checkpoints = sorted(self._runs.glob("*/checkpoints/step-*.json"))
            if checkpoints:
                struck.saved = int(checkpoints[-1].stem.removeprefix("step-"))
                struck.age = moment - checkpoints[-1].stat().st_mtime
            done.append(struck)
            print(row(struck), flush=True)
        self._until(session, session.has_ended)
        return done, session.output().strip().splitlines()[-1]

    def step(self) -> int:
        """Return the last measured step."""
        for curve in sorted(self._runs.glob("*/logs/train.jsonl"), reverse=True):
            with suppress(OSError, ValueError, IndexError):
                return int(json.loads(curve.read_text(encoding="utf-8").splitlines()[-1])["step"])
        return 0

    def _start(self, strike: Strike | None) -> Session:
        self._sessions += 1
        return Session(self._folder, self._steps, self._sessions, strike is not None and strike.how == "terminal")

    def _find_victims(self, session: Session, strike: Strike) -> list[psutil.Process]:
        victims: list[psutil.Process] = []

        def is_there() -> bool:
            assert session.process.poll() is None, session.output()
            if strike.stage == "registry":
                done = [path.stat().st_mtime for path in self._runs.glob("*/stages/evaluate.json")]
                if not done or time.time() - done[0] < 2 or family(session.process, "jobs."):
                    return False
            elif not family(session.process, f"jobs.{strike.stage}") or self.step() < strike.step:
                return False
            victims[:] = family(session.process, WAYS[strike.how][0])
            return bool(victims)

        self._until(session, is_there)
        return victims

    def _has_resumed(self, session: Session) -> bool:
        """Return whether a new retraining is so far that no rank of an earlier one can still save anything."""
        return session.process.poll() is not None or bool(
            family(session.process, "jobs.prepare")
            or [rank for rank in family(session.process, "jobs.train") if "deploy.launcher" not in rank.cmdline()]
            or family(session.process, "jobs.evaluate")
            or any(self._runs.glob("*/stages/evaluate.json"))
        )

    def _logged_errors(self, stage: str, since: float) -> list[str]:
        """Return the errors in the stage's own log, which also has what a closed terminal lost."""
        lines = []
        for log in self._runs.glob(f"*/logs/{stage}.log"):
            for line in log.read_text(errors="replace").splitlines():
                stamp, _, message = line.partition(" ERROR ")
                with suppress(ValueError):
                    if message and time.mktime(time.strptime(stamp[:19], "%Y-%m-%d %H:%M:%S")) >= int(since):
                        lines.append(f"(log) {message}")
        return lines

    def _until(self, session: Session, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _SECONDS
        while not condition():
            self.trainers.look()
            session.output()
            assert time.monotonic() < deadline, session.output()
            time.sleep(0.01)


def plan(steps: int) -> list[Strike]:
    """Return twenty strikes, in their order."""
    before = [Strike("fetch", "fetch"), Strike("Spark's Java", "prepare"), Strike("prepare", "prepare")]
    starting = [Strike("idxtrain"), Strike("hang-up")]
    ways = ["hang-up", "terminal", "idxtrain", "launcher", "rank", "hang-up", "terminal", "launcher", "rank"]
    ways += ["idxtrain", "terminal", "launcher", "rank"]
    moments = [EVERY // 2 + n * (steps - EVERY) // len(ways) for n in range(len(ways))]
    during = [Strike(how, "train", step) for how, step in zip(ways, moments, strict=True)]
    return [*before, *starting, *during, Strike("evaluate", "evaluate"), Strike("hang-up", "registry")]


HEAD = (
    "| strike | stage | at step | checkpoint of step | its age, s | exit | lines | the same command again |\n"
    + "|---" * 8
    + "|"
)


def row(struck: Struck) -> str:
    """Return a strike's row of the table."""
    cells = [struck.strike.how, struck.strike.stage, struck.step, struck.saved, f"{struck.age:.1f}", struck.code]
    return f"| {' | '.join(map(str, cells))} | {'<br>'.join(struck.lines)} | {struck.again} |"


def broken_promises(done: Sequence[Struck], trainers: Trainers) -> list[str]:
    """Return the promises that did not hold."""
    broken = [f"{trainers.most} trainings at once"] if trainers.most > 1 else []
    for struck in done:
        if len(struck.lines) != 1:
            broken.append(f"{struck.strike}: {len(struck.lines)} lines")
        # The measured step may lag behind the trained one by LOG_EVERY steps.
        if struck.strike.stage == "train" and struck.step - struck.saved > EVERY + LOG_EVERY:
            broken.append(f"{struck.strike}: step {struck.step}, but a checkpoint of step {struck.saved}")
        if struck.strike.stage == "train" and struck.strike.how != "rank" and struck.saved < struck.step:
            broken.append(f"{struck.strike}: the ranks saved nothing of step {struck.step}")
    return broken


def main(folder: Path, seed: int, steps: int = 600) -> int:
    trial = Trial(folder, steps, seed)
    print(HEAD)
    done, last = trial.run(plan(steps))
    print(last)
    broken = broken_promises(done, trial.trainers)
    print(*broken or ["every promise held"], sep="\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
