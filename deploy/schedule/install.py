"""Put a retraining into the user's crontab, through `crontab -`: the one place where something is changed."""

import subprocess

from deploy.schedule import crontab
from deploy.schedule.job import Job
from jobs.errors import IdxtrainError, InputError, printable


def install(job: Job) -> tuple[bool, str]:
    """Install the job's block; return whether anything changed, and the block that was there before.

    Raises InputError where there is no crontab command, IdxtrainError where it refuses.
    """
    now = _read()
    wanted, old = crontab.merge(now, job)
    if wanted != now:
        _crontab("-", text=wanted)
    return wanted != now, old


def _read() -> str:
    done = _run("-l")
    if done.returncode and "no crontab for" in done.stderr:
        return ""
    if done.returncode:
        raise IdxtrainError(f"crontab -l: {printable(done.stderr.strip())}")
    return done.stdout


def _crontab(*arguments: str, text: str) -> None:
    done = _run(*arguments, text=text)
    if done.returncode:
        raise IdxtrainError(f"crontab {' '.join(arguments)}: {printable(done.stderr.strip())}; nothing was changed")


def _run(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["crontab", *arguments], input=text, capture_output=True, text=True, check=False)  # noqa: S607
    except FileNotFoundError:
        raise InputError(
            "--install: found no crontab command here; install cron, or use --as systemd, slurm or scrontab"
        ) from None
