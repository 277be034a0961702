"""Slurm's commands, run: submitted, asked, cancelled. What goes in and comes out are values."""

import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.slurm import script
from jobs.errors import IdxtrainError, InputError

_SECONDS = 60.0
_BAD = ("FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "DEADLINE", "BOOT_FAIL", "PREEMPTED", "REVOKED")
_OVER = frozenset(("COMPLETED", *_BAD))  # squeue(1), JOB STATE CODES
_FIELDS = ("%i", "%T", "%M", "%N", "%r", "%j")


class NoSlurmError(IdxtrainError):
    """Slurm is not here, or its controller does not answer."""


@dataclass(frozen=True)
class Queued:
    """A job as the queue has it. `state`: e.g. RUNNING; `reason`: why it waits, or how it ended."""

    job: str
    state: str
    elapsed: str
    nodes: str
    reason: str
    name: str

    @property
    def over(self) -> bool:
        """Tell whether it will not run any more."""
        return self.state in _OVER


def submit(
    path: Path, after: str | None = None, environment: Mapping[str, str] = os.environ, however: bool = False
) -> str:
    """Submit a script and return the job's ID; raise InputError, with sbatch's words, where Slurm refuses it."""
    done = _call(script.submission(path, after, however), environment)
    if done.returncode:
        raise InputError(f"{path}: sbatch refuses it ({_words(done)}); mend the site")
    return done.stdout.strip().partition(";")[0]


def find(names: Iterable[str], jobs: Iterable[str] = ()) -> list[Queued]:
    """Return the user's jobs of these names or IDs that the queue knows, those that are over too, newest first."""
    argv = ["squeue", "--me", "--states=all", "--noheader", "--array", f"--format={'|'.join(_FIELDS)}"]
    done = _call(argv)
    if done.returncode:
        raise NoSlurmError(f"squeue fails ({_words(done)})")
    rows = [line.split("|") for line in done.stdout.splitlines()]
    found = [Queued(*(cell.strip() for cell in row)) for row in rows if len(row) == len(_FIELDS)]
    by_name, by_id = set(names), set(jobs)
    wanted = [job for job in found if job.name in by_name or job.job in by_id]
    return sorted(wanted, key=lambda job: int(job.job.partition("_")[0]), reverse=True)


def account(job: str) -> tuple[str, str] | None:
    """Return a job's state and elapsed time from Slurm's accounting; None where that knows nothing, or is not there."""
    try:
        done = _call(["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={job}", "--format=State,Elapsed"])
    except NoSlurmError:
        return None
    if done.returncode or not done.stdout.strip():
        return None
    state, _, elapsed = done.stdout.splitlines()[-1].partition("|")
    return state.split()[0], elapsed


def state(job: str) -> str:
    """Return a job's state, e.g. RUNNING; an empty text where the queue does not know it."""
    done = _call(["squeue", "--states=all", "--noheader", f"--jobs={job}", "--format=%T"])
    return done.stdout.strip().partition("\n")[0]


def cancel(jobs: Sequence[str]) -> None:
    """Cancel jobs; one that is over already is no fault."""
    if jobs:
        done = _call(["scancel", *jobs])
        if done.returncode:
            raise IdxtrainError(f"scancel fails ({_words(done)})")


def requeue(job: str) -> str:
    """Put a running job back into the queue; return why that cannot be, or an empty text."""
    done = _call(["scontrol", "requeue", job])
    return _words(done) if done.returncode else ""


def depend(job: str, on: str) -> None:
    """Let a waiting job wait for another one instead; raise IdxtrainError where that cannot be."""
    done = _call(["scontrol", "update", f"JobId={job}", f"Dependency=afterok:{on}"])
    if done.returncode:
        raise IdxtrainError(f"job {job}: cannot be made to wait for job {on} ({_words(done)})")


def node_names(compressed: str) -> list[str]:
    """Return the names that a node list stands for: n[1-3] is n1, n2 and n3."""
    done = _call(["scontrol", "show", "hostnames", compressed])
    if done.returncode:
        raise NoSlurmError(f"scontrol fails ({_words(done)})")
    return done.stdout.split()


def node_address(node: str) -> str:
    """Return where a node is reached: its name, unless Slurm has an address for it."""
    done = _call(["scontrol", "--oneliner", "show", "node", node])
    found = dict(word.split("=", 1) for word in done.stdout.split() if "=" in word)
    return found.get("NodeAddr", node)


def _call(argv: Sequence[str], environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except FileNotFoundError:
        raise NoSlurmError(f"found no {argv[0]} here, expected Slurm's commands; log in to the cluster") from None
    except subprocess.TimeoutExpired:
        raise NoSlurmError(f"{argv[0]} gave no answer in {_SECONDS:g} s; try again later") from None


def _words(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join((done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").split())[:300]
