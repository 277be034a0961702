"""Scheduled retraining on a Slurm cluster: a job that submits its successor, or an entry for scrontab(1)."""

import shlex
from pathlib import Path

from deploy.schedule.job import ScheduledJob

_SCRIPT = """\
#!/bin/bash
#SBATCH --job-name={title}
#SBATCH --dependency=singleton
#SBATCH --export=NONE
#SBATCH --output={out}
#SBATCH --open-mode=append
{options}# Retrains at `{cron}`, in the node's time zone.
# Start, and retrain now: sbatch FILE. Stop: scancel --me --name={title}
# Each job first submits its successor for the next time, so the schedule survives a job that is killed.
# At most one job of this name runs (singleton), and at most one waits.
cd {folder} || exit 1
{environment}unset SLURM_EXPORT_ENV

successor() {{
    test -n "$(squeue --noheader --me --name={title} --states=PENDING --format=%i)" ||
        sbatch --quiet --begin="$({python} -I -m deploy.schedule.expression {cron_word})" "$0"
}}

successor || echo "job $SLURM_JOB_ID: cannot submit its successor; it tries again at its end" >&2
{command}
code=$?
successor || echo "job $SLURM_JOB_ID: cannot submit its successor; submit this script again" >&2
exit $code
"""

_SCRONTAB = """\
#SCRON --job-name={title}
#SCRON --output={out}
#SCRON --open-mode=append
{options}{cron} {command}
"""


def script(job: ScheduledJob) -> str:
    """Return a batch script that resubmits itself at each time of the schedule."""
    variables = "".join(f"export {key}={shlex.quote(value)}\n" for key, value in job.environment.items())
    if job.environment_file:
        variables += f"set -a\n. {shlex.quote(str(job.environment_file))}\nset +a\n"
    return _SCRIPT.format(
        title=job.title,
        out=_out(job),
        options=_options("#SBATCH", job),
        cron=job.cron.text,
        cron_word=shlex.quote(job.cron.text),
        folder=shlex.quote(str(job.folder)),
        environment=variables,
        python=shlex.quote(str(Path(job.argv[0]).with_name("python"))),
        command=shlex.join(job.logged_argv),
    )


def scrontab(job: ScheduledJob) -> str:
    """Return an entry for scrontab, with which Slurm itself keeps the schedule."""
    return _SCRONTAB.format(
        title=job.title,
        out=_out(job),
        options=_options("#SCRON", job),
        cron=job.cron.text,
        command=job.shell_line(),
    )


def _options(directive: str, job: ScheduledJob) -> str:
    return "".join(f"{directive} {option}\n" for option in job.sbatch)


def _out(job: ScheduledJob) -> str:
    """Return the file for output outside the log. Slurm needs its folder to exist when the job starts."""
    # Slurm expands % patterns.
    path = str(job.folder / f"{job.title}.out").replace("%", "%%")
    return shlex.quote(path)
