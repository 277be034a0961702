"""Scheduled retraining in the user's crontab: crontab(5)."""

from deploy.schedule.job import ScheduledJob
from jobs.errors import InputError

_MAX_CHARACTERS = 998  # of a command in Debian's cron


def block(job: ScheduledJob) -> str:
    """Return the lines for a crontab, between two marks; raise InputError if cron would refuse them."""
    # cron turns every % that is not escaped into a line break.
    command = job.shell_line().replace("%", r"\%")
    if len(command) > _MAX_CHARACTERS:
        raise InputError(
            f"schedule: found {len(command)} characters in the crontab's line, expected at most {_MAX_CHARACTERS}; "
            "fix: use shorter paths, or put the options into a recipe (--recipe FILE.toml)"
        )
    begin, end = _marks(job)
    return f"{begin}\n{job.cron.text} {command}\n{end}\n"


def merge(crontab: str, job: ScheduledJob) -> tuple[str, str]:
    """Return the crontab with the job's block added or replaced, and the block it had before ("" if none).

    All other lines are kept. Raises InputError if one of a block's two marks is missing.
    """
    begin, end = _marks(job)
    lines = crontab.splitlines()
    if lines.count(begin) != lines.count(end) or lines.count(begin) > 1:
        raise InputError(
            f"crontab: found one of {begin!r} and {end!r} without the other; fix: edit it with `crontab -e`"
        )
    new = block(job)
    if begin not in lines:
        before = crontab if not crontab or crontab.endswith("\n") else crontab + "\n"
        return before + new, ""
    first, last = lines.index(begin), lines.index(end)
    if last < first:
        raise InputError(f"crontab: found {end!r} before {begin!r}; fix: edit it with `crontab -e`")
    old = "".join(f"{line}\n" for line in lines[first : last + 1])
    return "".join(f"{line}\n" for line in lines[:first]) + new + "".join(
        f"{line}\n" for line in lines[last + 1 :]
    ), old


def _marks(job: ScheduledJob) -> tuple[str, str]:
    return f"# >>> {job.title}, written by idxtrain schedule >>>", f"# <<< {job.title} <<<"
