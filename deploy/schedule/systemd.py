"""Scheduled retraining as a systemd service and timer: systemd.service(5), systemd.timer(5), systemd.time(7)."""

from collections.abc import Sequence
from pathlib import Path

from deploy.schedule.expression import Cron
from deploy.schedule.job import ScheduledJob
from jobs.errors import InputError

_DAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")

_SERVICE = """\
# systemctl --user daemon-reload && systemctl --user enable --now {title}.timer
# To run it while you are logged out: loginctl enable-linger. Its output: journalctl --user -u {title}
[Unit]
Description=Retrain {name} and promote only better models (idxtrain)

[Service]
Type=oneshot
WorkingDirectory={folder}
{environment}ExecStart={command}
# SIGTERM goes to idxtrain alone, which forwards it: training writes a checkpoint, from which the next start resumes.
KillMode=mixed
TimeoutStopSec=300
SuccessExitStatus=75
"""

_TIMER = """\
# Times of `{cron}`, in the machine's time zone.
[Unit]
Description=Schedule of the retraining of {name} (idxtrain)

[Timer]
{times}# Retrains after boot if the machine was off at a scheduled time.
Persistent=true

[Install]
WantedBy=timers.target
"""


def units(job: ScheduledJob) -> dict[str, str]:
    """Return the unit files by name. systemd does not start a oneshot service again while it runs."""
    variables = "".join(f"Environment={_quoted(f'{key}={value}')}\n" for key, value in job.environment.items())
    if job.environment_file:
        variables += f"EnvironmentFile={_path(job.environment_file)}\n"
    service = _SERVICE.format(
        title=job.title,
        name=job.name,
        folder=_path(job.folder),
        environment=variables,
        command=" ".join(_quoted(word, is_command=True) for word in job.argv),
    )
    times = "".join(f"OnCalendar={time}\n" for time in calendar(job.cron))
    timer = _TIMER.format(cron=job.cron.text, name=job.name, times=times)
    return {f"{job.title}.service": service, f"{job.title}.timer": timer}


def calendar(cron: Cron) -> list[str]:
    """Return calendar events whose union is a cron expression: one, or two if either day field suffices."""
    clock = f"{_values(cron.hours, 24)}:{_values(cron.minutes, 60)}:00"
    weekdays = "" if len(cron.weekdays) == 7 else ",".join(_DAYS[day] for day in cron.weekdays) + " "
    months, days = _values(cron.months, 12), _values(cron.days, 31)
    if cron.both_days:
        return [f"{weekdays}*-{months}-{days} {clock}"]
    return [f"{weekdays}*-{months}-* {clock}", f"*-{months}-{days} {clock}"]


def _values(values: Sequence[int], total: int) -> str:
    return "*" if len(values) == total else ",".join(f"{value:02d}" for value in values)


def _escaped(text: str) -> str:
    return text.replace("%", "%%")  # % starts a specifier


def _path(path: Path) -> str:
    """Return a path as the value of a setting; raise InputError if systemd would join it with the next line."""
    if str(path).endswith("\\"):
        raise InputError(f"schedule: found {str(path)!r}, expected no backslash at the end; fix: rename it")
    return _escaped(str(path))


def _quoted(text: str, is_command: bool = False) -> str:
    """Return one word quoted for a unit file. In a command, $ starts a variable."""
    text = _escaped(text).replace("\\", "\\\\").replace('"', '\\"')
    if is_command:
        text = text.replace("$", "$$")
    plain = all(c.isalnum() or c in "%$/._-+=:,@" for c in text)
    return text if plain and text else f'"{text}"'
