"""A retraining in the user's crontab: crontab(5)."""

from deploy.schedule.job import Job
from jobs.errors import InputError

_LONGEST = 998  # characters of a command that Debian's cron takes


def block(job: Job) -> str:
    """Return the lines for a crontab, between two marks; raise InputError where cron would not take them."""
    # cron makes a line break of every % that is not escaped.
    command = job.shell_line().replace("%", r"\%")
    if len(command) > _LONGEST:
        raise InputError(
            f"schedule: the crontab's line has {len(command)} characters, cron takes {_LONGEST} at the most; give "
            "shorter paths, or put the options into a recipe of yours (--recipe mine.toml)"
        )
    begin, end = _marks(job)
    return f"{begin}\n{job.cron.text} {command}\n{end}\n"


def merge(crontab: str, job: Job) -> tuple[str, str]:
    """Return a crontab with the job's block instead of the one it has, and that one, empty where it has none.

    All other lines stay as they are. Raises InputError where one of a block's two marks is missing.
    """
    begin, end = _marks(job)
    lines = crontab.splitlines()
    if lines.count(begin) != lines.count(end) or lines.count(begin) > 1:
        raise InputError(f"crontab: found one of {begin!r} and {end!r} without the other; mend it with `crontab -e`")
    new = block(job)
    if begin not in lines:
        before = crontab if not crontab or crontab.endswith("\n") else crontab + "\n"
        return before + new, ""
    first, last = lines.index(begin), lines.index(end)
    if last < first:
        raise InputError(f"crontab: found {end!r} before {begin!r}; mend it with `crontab -e`")
    old = "".join(f"{line}\n" for line in lines[first : last + 1])
    return "".join(f"{line}\n" for line in lines[:first]) + new + "".join(
        f"{line}\n" for line in lines[last + 1 :]
    ), old


def _marks(job: Job) -> tuple[str, str]:
    return f"# >>> {job.title}, written by idxtrain schedule >>>", f"# <<< {job.title} <<<"
