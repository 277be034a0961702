"""Install a scheduled retraining in the user's crontab, by `crontab -`. Only this module changes anything."""

import subprocess

from deploy.schedule import crontab
from deploy.schedule.job import ScheduledJob
from jobs.errors import IdxtrainError, InputError, printable


def install(job: ScheduledJob) -> tuple[bool, str]:
    """Install the job's block; return whether the crontab changed, and the block it had before ("" if none).

    Raises InputError if there is no crontab command, IdxtrainError if it fails.
    """
    current = _read()
    wanted, old = crontab.merge(current, job)
    if wanted != current:
        _crontab("-", text=wanted)
    return wanted != current, old


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
            "--install: found no crontab command; fix: install cron, or use --as systemd, slurm or scrontab"
        ) from None
