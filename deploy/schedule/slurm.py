"""A retraining on a Slurm cluster: a job that submits its successor, or an entry for scrontab(1) where there is one."""

import shlex
from pathlib import Path

from deploy.schedule.job import Job

_SCRIPT = """\
#!/bin/bash
#SBATCH --job-name={title}
#SBATCH --dependency=singleton
#SBATCH --export=NONE
#SBATCH --output={out}
#SBATCH --open-mode=append
{options}# Retrains at `{cron}`, in the node's time zone.
# Begin, with a retraining now: sbatch FILE. End: scancel --me --name={title}
# Each job submits its successor, for the next time, before it works, so one that is killed does not break the chain.
# One of that name runs at a time (singleton) and one waits: nothing piles up.
cd {folder} || exit 1
{environment}unset SLURM_EXPORT_ENV

successor() {{
    test -n "$(squeue --noheader --me --name={title} --states=PENDING --format=%i)" ||
        sbatch --quiet --begin="$({python} -I -m deploy.schedule.expression {cron_word})" "$0"
}}

successor || echo "job $SLURM_JOB_ID: cannot submit its successor, trying again when it is done" >&2
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


def script(job: Job) -> str:
    """Return a batch script that keeps the schedule by itself."""
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


def scrontab(job: Job) -> str:
    """Return an entry for scrontab, where Slurm itself keeps the schedule."""
    return _SCRONTAB.format(
        title=job.title,
        out=_out(job),
        options=_options("#SCRON", job),
        cron=job.cron.text,
        command=job.shell_line(),
    )


def _options(mark: str, job: Job) -> str:
    return "".join(f"{mark} {option}\n" for option in job.sbatch)


def _out(job: Job) -> str:
    """Return the file for what is said outside of the log: its folder must be there when the job starts."""
    # Slurm fills % patterns in.
    path = str(job.folder / f"{job.title}.out").replace("%", "%%")
    return shlex.quote(path)
