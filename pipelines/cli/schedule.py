"""idxtrain schedule: what cron, systemd or Slurm needs to run `idxtrain retrain` at set times, printed or installed."""

import os
import shutil
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.cli.errors import reported
from pipelines.cli.run_options import options_of

if TYPE_CHECKING:
    from deploy.schedule.job import ScheduledJob

_PASSED_ON = ("JAVA_HOME", "LD_LIBRARY_PATH", "MLFLOW_TRACKING_URI")  # from this environment into the schedule
_SECRETS = ("IDXTRAIN_WEBHOOK", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")

app = typer.Typer()


class Scheduler(StrEnum):
    """The program that starts the retraining."""

    CRON = "cron"
    SYSTEMD = "systemd"
    SLURM = "slurm"
    SCRONTAB = "scrontab"


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
@reported()
def schedule(
    context: typer.Context,
    cron: Annotated[str, typer.Option(help="When, as a cron expression: '0 3 * * 0' is Sundays at 3:00.")],
    scheduler: Annotated[Scheduler, typer.Option("--as", help="Program that starts the retraining.")],
    install: Annotated[bool, typer.Option("--install", help="Add the entry to your crontab (--as cron).")] = False,
    to: Annotated[Path | None, typer.Option(help="Write the files to this folder instead of printing them.")] = None,
    environment_file: Annotated[
        Path | None, typer.Option("--env-file", help="File of NAME=value lines for secrets; mode 0600.")
    ] = None,
    sbatch: Annotated[
        list[str] | None,
        typer.Option("--sbatch", metavar="OPTION", help="Option of sbatch, e.g. --time=60; repeatable."),
    ] = None,
) -> None:
    """Print or install a schedule that runs `idxtrain retrain`.

    All other options are passed on to `idxtrain retrain`.
    """
    from jobs.errors import InputError

    if install and scheduler is not Scheduler.CRON:
        raise InputError(
            f"--install: found --as {scheduler}, expected --as cron; fix: install it as the text describes"
        )
    if sbatch and scheduler not in (Scheduler.SLURM, Scheduler.SCRONTAB):
        raise InputError(f"--sbatch: found --as {scheduler}, expected --as slurm or --as scrontab")
    job = _job(cron, _retrain_options(context), tuple(context.args), environment_file, tuple(sbatch or ()))
    if install:
        _install(job)
    elif to is not None:
        _write(to.expanduser(), _texts(job, scheduler))
    else:
        _print(_texts(job, scheduler))


def _retrain_options(context: typer.Context) -> dict[str, Any]:
    """Return the options for `idxtrain retrain`, read by its own parser, which refuses unknown ones."""
    root = context.find_root()
    command = root.command.get_command(root, "retrain")  # type: ignore[attr-defined]
    return dict(command.make_context("retrain", list(context.args), parent=root).params)


def _job(
    cron: str, options: Mapping[str, Any], arguments: tuple[str, ...], file: Path | None, sbatch: tuple[str, ...]
) -> "ScheduledJob":
    from deploy.schedule.expression import parse
    from deploy.schedule.job import ScheduledJob
    from jobs.errors import InputError
    from pipelines.retraining.inputs import archives
    from pipelines.retraining.retrain import RetrainOptions, config_and_retrain_dir

    expression = parse(cron)
    if options["log"] is not None:
        raise InputError("--log: found one, expected none; fix: leave it out; the log is work/retrain/NAME/retrain.log")
    # Refuses now what would fail every night.
    config, folder = config_and_retrain_dir(RetrainOptions(options=options_of(options), name=options["name"]))
    archives(config)
    program = Path(sys.executable).with_name("idxtrain")
    if not program.exists():
        raise InputError(f"{program}: found no such program; fix: install idxtrain into this Python's environment")
    return ScheduledJob(
        name=folder.name,
        cron=expression,
        argv=(str(program), "retrain", *arguments),
        folder=Path.cwd(),
        log=folder.path / "retrain.log",
        environment=_environment(program, os.environ),
        environment_file=_private_file(file) if file else None,
        sbatch=sbatch,
    )


def _environment(program: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a scheduler's bare environment lacks, without those that may be secrets."""
    from deploy.registry.versions import without_password

    path = [str(program.parent), "/usr/local/bin", "/usr/bin", "/bin"]
    sbatch = shutil.which("sbatch")  # its folder differs from cluster to cluster
    if sbatch and str(Path(sbatch).parent) not in path:
        path.insert(1, str(Path(sbatch).parent))
    passed_on = {key: environment[key] for key in _PASSED_ON if environment.get(key)}
    uri = passed_on.get("MLFLOW_TRACKING_URI", "")
    secret = [key for key in _SECRETS if environment.get(key)]
    if uri != without_password(uri):
        secret.append("MLFLOW_TRACKING_URI")
        del passed_on["MLFLOW_TRACKING_URI"]
    if secret:
        print(
            f"warning: {', '.join(secret)}: set here, but secrets are not written into a schedule; "
            "fix: put them into a file with mode 0600 and pass it as --env-file",
            file=sys.stderr,
        )
    return {"PATH": ":".join(path)} | passed_on


def _private_file(file: Path) -> Path:
    """Return the absolute path of a file that only its owner may read; raise InputError otherwise."""
    from jobs.errors import InputError

    path = file.expanduser().absolute()
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise InputError(f"--env-file {file}: cannot be read ({error.strerror})") from error
    if mode & 0o077:
        raise InputError(f"--env-file {file}: found mode {mode & 0o777:04o}, expected 0600; fix: chmod 600 {file}")
    return path


def _texts(job: "ScheduledJob", scheduler: Scheduler) -> dict[str, str]:
    """Return the files to install, by name."""
    from deploy.schedule import crontab, slurm, systemd

    match scheduler:
        case Scheduler.SYSTEMD:
            return systemd.units(job)
        case Scheduler.SLURM:
            return {f"{job.title}.sh": slurm.script(job)}
        case Scheduler.SCRONTAB:
            return {f"{job.title}.scrontab": slurm.scrontab(job)}
        case Scheduler.CRON:
            return {f"{job.title}.crontab": crontab.block(job)}


def _print(texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
        if len(texts) > 1:
            print(f"# ===== {name}")
        print(text, end="")


def _write(folder: Path, texts: Mapping[str, str]) -> None:
    from jobs.files import write_text

    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_text(folder / name, text)
        print(folder / name)


def _install(job: "ScheduledJob") -> None:
    from deploy.schedule.install import install

    changed, old = install(job)
    if not changed:
        print(f"crontab: {job.title} is already installed, unchanged")
        return
    print(f"crontab: {'replaced' if old else 'installed'} {job.title}")
    if old:
        print(f"the old entry was:\n{old}", end="", file=sys.stderr)
