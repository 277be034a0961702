"""A cron expression, parsed as Debian's cron does: its fields and its next time.

    python -m deploy.schedule.expression '0 3 * * 0'

prints the next time in this machine's time zone, in the format of `sbatch --begin`.
"""

import re
import sys
from dataclasses import dataclass
from datetime import datetime, timedelta

from cronsim import CronSim, CronSimError

from jobs.errors import InputError

_NAMED = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_FIELDS = ("minute", "hour", "day of month", "month", "day of week")
# What every cron accepts. The library accepts more, such as L and #.
_NUMBER = r"(?:\d{1,2}|[A-Za-z]{3})"
_TERM = rf"(?:\*(?:/\d+)?|{_NUMBER}(?:-{_NUMBER}(?:/\d+)?)?)"
_FIELD = re.compile(rf"{_TERM}(?:,{_TERM})*")
_EXAMPLE = "expected five fields, minute hour day month weekday, e.g. '0 3 * * 0' for Sundays at 3:00"


@dataclass(frozen=True, kw_only=True)
class Cron:
    """A cron expression of five fields. Each tuple is sorted. `weekdays`: 0 is Sunday.

    `both_days`: a day must be in `days` and in `weekdays`, because one of the fields begins with *; else one suffices.
    """

    text: str
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: tuple[int, ...]
    months: tuple[int, ...]
    weekdays: tuple[int, ...]
    both_days: bool

    def next(self, after: datetime) -> datetime:
        """Return the first time after `after`."""
        return next(CronSim(self.text, after))


def parse(text: str) -> Cron:
    """Parse a cron expression; raise InputError if it is invalid, or if its time never comes."""
    words = _NAMED.get(text.strip().lower(), text).split()
    shown = f"--cron {text!r}"
    if len(words) != len(_FIELDS):
        raise InputError(f"{shown}: found {len(words)} fields, {_EXAMPLE}")
    for name, word in zip(_FIELDS, words, strict=True):
        if not _FIELD.fullmatch(word):
            raise InputError(
                f"{shown}: found {word!r} as {name}, expected numbers, *, a-b, a-b/step or */step, separated by commas"
            )
    try:
        times = CronSim(" ".join(words), datetime(2000, 1, 1))
        next(times)
    except CronSimError as error:
        raise InputError(f"{shown}: {str(error).lower()}; {_EXAMPLE}") from error
    except StopIteration:
        raise InputError(f"{shown}: found a time that never comes, {_EXAMPLE}") from None
    weekdays = sorted({day % 7 for day in times.weekdays if isinstance(day, int)})
    return Cron(
        text=" ".join(words),
        minutes=tuple(sorted(times.minutes)),
        hours=tuple(sorted(times.hours)),
        days=tuple(sorted(times.days)),
        months=tuple(sorted(times.months)),
        weekdays=tuple(weekdays),
        both_days=times.day_and,
    )


def main() -> None:
    """Print the next time of the expression given on the command line."""
    # Skip the next minute: a batch system that starts a job slightly early must not run it twice.
    now = datetime.now() + timedelta(seconds=59)
    print(parse(sys.argv[1]).next(now).strftime("%Y-%m-%dT%H:%M:%S"))


if __name__ == "__main__":
    main()
