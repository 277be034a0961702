"""Run Slurm's commands: submit, query, cancel, requeue. What goes in and comes out are values."""

import os
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.slurm import reasons, script
from jobs.errors import IdxtrainError, InputError

_SECONDS = 60.0
_BAD = ("FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "DEADLINE", "BOOT_FAIL", "PREEMPTED", "REVOKED")
_OVER = frozenset(("COMPLETED", *_BAD))  # squeue(1), JOB STATE CODES
# Of `Queued`. The script comes last, as its path may have any character.
_FIELDS = {"job": "%i", "state": "%T", "elapsed": "%M", "nodes": "%N", "reason": "%r", "name": "%j", "script": "%o"}
# Of a controller that is away. scontrol says the last one.
_AWAY = re.compile(
    "Unable to contact slurm controller|[Cc]onnection refused|[Tt]imed out|Unexpected message received|Zero Bytes"
)
_USABLE = frozenset(("idle", "mixed", "allocated", "completing", "planned"))  # sinfo(1), NODE STATE CODES
_UNKNOWN_JOB = "Invalid job id"  # what squeue says of a job that the queue no longer has


class NoSlurmError(IdxtrainError):
    """Slurm's commands are missing here, or its controller does not answer."""


class ControllerAwayError(NoSlurmError):
    """Slurm's controller does not answer: asking again may help."""


@dataclass(frozen=True, kw_only=True)
class Queued:
    """A job in the queue. `state`: e.g. RUNNING. `reason`: why it waits, or how it ended. `script`: its path."""

    job: str
    state: str
    elapsed: str
    nodes: str
    reason: str
    name: str
    script: str

    @property
    def over(self) -> bool:
        """Whether the job has ended for good."""
        return self.state in _OVER


def submit(
    path: Path, after: str | None = None, environment: Mapping[str, str] = os.environ, after_any: bool = False
) -> str:
    """Submit a script and return the job's ID; see `script.submission`.

    Raises InputError, with sbatch's own message, if Slurm refuses the script; ControllerAwayError.
    """
    done = _call(script.submission(path, after, after_any), environment_for_sbatch(environment))
    _require_controller("sbatch", done)
    if done.returncode:
        raise _refusal(path, done)
    return done.stdout.strip().partition(";")[0]


def check(paths: Iterable[Path], environment: Mapping[str, str] = os.environ) -> None:
    """Ask Slurm whether it would take these scripts, and submit none.

    Raises InputError, with the fix, for the first one that it would refuse or could never start; ControllerAwayError.
    A script that only has to wait, such as for nodes that are down, is not refused.
    """
    for path in paths:
        done = _call(["sbatch", "--test-only", str(path)], environment_for_sbatch(environment))
        _require_controller("sbatch", done)
        message = _message(done)
        if done.returncode and reasons.why_refused(message) and not (reasons.may_pass(message) and _nodes_are_away()):
            raise _refusal(path, done)


def _refusal(path: Path, done: subprocess.CompletedProcess[str]) -> InputError:
    message = _message(done)
    return InputError(
        f"{path}: sbatch refuses it ({message}): {reasons.why_refused(message) or 'fix: change the site'}"
    )


def _nodes_are_away() -> bool:
    """Return whether any node is down, drained or reserved, so that a request may be refused that will be possible."""
    done = _call(["sinfo", "--noheader", "--format=%T"])
    return bool(done.returncode or set(done.stdout.split()) - _USABLE)


def environment_for_sbatch(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without what Slurm has set for an enclosing job: sbatch would read it as options.

    What a user has set, such as SBATCH_ACCOUNT, stays.
    """
    if "SLURM_JOB_ID" not in environment:
        return dict(environment)
    of_job = ("SLURM_", "SBATCH_CPU_BIND", "SBATCH_MEM_BIND")
    return {name: value for name, value in environment.items() if name == "SLURM_CONF" or not name.startswith(of_job)}


def find(scripts: Iterable[Path]) -> list[Queued]:
    """Return the user's jobs with one of these scripts, newest first, also ended ones that the queue still has.

    A job's name would not do: runs of the same ID may exist in several work folders. Its ID neither: another cluster
    has the same IDs, and a controller that lost its state begins again at 1.
    """
    done = _call(["squeue", "--me", "--states=all", "--noheader", "--array", f"--format={'|'.join(_FIELDS.values())}"])
    if done.returncode:
        raise NoSlurmError(f"squeue failed ({_message(done)})")
    rows = [line.split("|", len(_FIELDS) - 1) for line in done.stdout.splitlines()]
    queued = [
        Queued(**{field: cell.strip() for field, cell in zip(_FIELDS, row, strict=True)})
        for row in rows
        if len(row) == len(_FIELDS)
    ]
    by_script = {str(path) for path in scripts}
    wanted = [job for job in queued if job.script in by_script]
    return sorted(wanted, key=lambda job: int(job.job.partition("_")[0]), reverse=True)


def account(job: str, names: Iterable[str]) -> tuple[str, str] | None:
    """Return a job's state and elapsed time from Slurm's accounting; None if it has no record or does not run.

    `names`: in the queue, one of which the job has: another cluster's job may have its number.
    """
    options = ["--noheader", "--parsable2", "--allocations", f"--jobs={job}", "--format=State,Elapsed,JobName"]
    try:
        done = _call(["sacct", *options])
    except NoSlurmError:
        return None
    known = [line.split("|", 2) for line in done.stdout.splitlines() if line.count("|") >= 2]
    ours = [(state.split()[0], elapsed) for state, elapsed, name in known if name in set(names)]
    return ours[-1] if ours and not done.returncode else None


def state(job: str) -> str:
    """Return a job's state, e.g. RUNNING; an empty text if the queue does not have the job.

    Raises ControllerAwayError if the controller does not answer.
    """
    done = _call(["squeue", "--states=all", "--noheader", f"--jobs={job}", "--format=%T"])
    if done.returncode and _UNKNOWN_JOB not in done.stderr:
        raise ControllerAwayError(f"squeue failed ({_message(done)})")
    return done.stdout.strip().partition("\n")[0]


def script_of(job: str) -> str:
    """Return the path of a job's script. Raises ControllerAwayError if the controller does not answer."""
    done = _call(["squeue", "--states=all", "--noheader", f"--jobs={job}", f"--format={_FIELDS['script']}"])
    if done.returncode:
        raise ControllerAwayError(f"squeue failed ({_message(done)})")
    return done.stdout.strip().partition("\n")[0]


def cancel(jobs: Sequence[str]) -> None:
    """Cancel jobs, some of which may have ended; raise IdxtrainError if scancel fails."""
    if jobs:
        done = _call(["scancel", *jobs])
        if done.returncode:
            raise IdxtrainError(f"scancel failed ({_message(done)})")


def requeue(job: str) -> str:
    """Put a running job back into the queue; return an empty text, or why Slurm refuses.

    Raises ControllerAwayError if the controller does not answer.
    """
    done = _call(["scontrol", "requeue", job])
    _require_controller("scontrol", done)
    return _message(done) if done.returncode else ""


def max_array_size() -> int | None:
    """Return how many tasks a job array may have here; None if Slurm does not answer."""
    try:
        done = _call(["scontrol", "show", "config"])
    except NoSlurmError:
        return None
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", done.stdout, re.MULTILINE)
    return int(match[1]) if match else None


def depend(job: str, on: str) -> None:
    """Make a waiting job depend on another job instead; raise IdxtrainError if Slurm refuses."""
    done = _call(["scontrol", "update", f"JobId={job}", f"Dependency=afterok:{on}"])
    if done.returncode:
        raise IdxtrainError(f"job {job}: cannot be made to wait for job {on} ({_message(done)})")


def node_names(compressed: str) -> list[str]:
    """Return the names in a node list: n[1-3] is n1, n2 and n3."""
    done = _call(["scontrol", "show", "hostnames", compressed])
    if done.returncode:
        raise NoSlurmError(f"scontrol failed ({_message(done)})")
    return done.stdout.split()


def node_address(node: str) -> str:
    """Return the address of a node: Slurm's NodeAddr if it has one, else the node's name."""
    done = _call(["scontrol", "--oneliner", "show", "node", node])
    properties = dict(word.split("=", 1) for word in done.stdout.split() if "=" in word)
    return properties.get("NodeAddr", node)


def _call(argv: Sequence[str], environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except FileNotFoundError:
        raise NoSlurmError(f"found no {argv[0]} here, expected Slurm's commands; fix: log in to the cluster") from None
    except subprocess.TimeoutExpired:
        raise ControllerAwayError(
            f"{argv[0]}: found no answer in {_SECONDS:g} s, expected one; fix: try again later"
        ) from None


def _require_controller(command: str, done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode and _AWAY.search(done.stdout + done.stderr):
        raise ControllerAwayError(f"{command} failed ({_message(done)})")


def _message(done: subprocess.CompletedProcess[str]) -> str:
    """Return what a failed command printed, on one line."""
    return " ".join((done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").split())[:300]
