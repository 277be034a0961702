"""idxtrain schedule: what cron, systemd or Slurm needs to retrain at set times, printed or installed."""

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from deploy.schedule.job import Job

ExitCodes = Callable[[], AbstractContextManager[None]]

_KEPT = ("JAVA_HOME", "LD_LIBRARY_PATH", "MLFLOW_TRACKING_URI")  # of the environment
_SECRETS = ("IDXTRAIN_WEBHOOK", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


class Kind(StrEnum):
    """What is to keep the time."""

    CRON = "cron"
    SYSTEMD = "systemd"
    SLURM = "slurm"
    SCRONTAB = "scrontab"


def register(app: typer.Typer, exit_codes: ExitCodes) -> None:
    """Add the command. `exit_codes`: turns errors into exit codes, as for every command."""

    @app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
    def schedule(
        context: typer.Context,
        cron: Annotated[str, typer.Option(help="When, as a cron expression: '0 3 * * 0' is Sundays at 3:00.")],
        kind: Annotated[Kind, typer.Option("--as", help="What is to keep the time.")],
        install: Annotated[bool, typer.Option("--install", help="Put it into your crontab (--as cron).")] = False,
        to: Annotated[Path | None, typer.Option(help="Write the files into this folder, instead of printing.")] = None,
        environment_file: Annotated[
            Path | None, typer.Option("--env-file", help="File of NAME=value lines, for secrets; only you may read it.")
        ] = None,
        sbatch: Annotated[
            list[str] | None, typer.Option("--sbatch", metavar="OPTION", help="For Slurm, e.g. --time=60; repeatable.")
        ] = None,
    ) -> None:
        """Print what to install to retrain at set times. All further options are `idxtrain retrain`'s."""
        with exit_codes():
            from jobs.errors import InputError

            if install and kind is not Kind.CRON:
                raise InputError(f"--install: found --as {kind}, expected --as cron; install it as the text says")
            if sbatch and kind not in (Kind.SLURM, Kind.SCRONTAB):
                raise InputError(f"--sbatch: found --as {kind}, expected --as slurm or --as scrontab")
            job = _job(cron, _retrain_options(context), tuple(context.args), environment_file, tuple(sbatch or ()))
            if install:
                _install(job)
            elif to is not None:
                _write(to.expanduser(), _texts(job, kind))
            else:
                _print(_texts(job, kind))


def _retrain_options(context: typer.Context) -> dict[str, Any]:
    """Return retrain's options as its own parser reads them, which refuses what it does not know."""
    root = context.find_root()
    command = root.command.get_command(root, "retrain")  # type: ignore[attr-defined]
    return dict(command.make_context("retrain", list(context.args), parent=root).params)


def _job(
    cron: str, options: Mapping[str, Any], arguments: tuple[str, ...], file: Path | None, sbatch: tuple[str, ...]
) -> "Job":
    from deploy.schedule.expression import parse
    from deploy.schedule.job import Job
    from jobs.errors import InputError
    from pipelines.request import Options
    from pipelines.retraining.retrain import RetrainOptions, config_and_retrain_dir

    expression = parse(cron)
    if options["log"] is not None:
        raise InputError("--log: the schedule gives one, work/retrain/NAME/retrain.log; leave it out")
    shared = {key: options[key] for key in ("data", "dataset", "recipe", "np", "seed", "spark_master", "work")}
    settings = Options(**shared, assignments=tuple(options["assignments"] or ()))
    # Refuses now what would fail every night.
    _, place = config_and_retrain_dir(RetrainOptions(options=settings, name=options["name"]))
    program = Path(sys.executable).with_name("idxtrain")
    if not program.exists():
        raise InputError(f"{program}: there is no such program; install idxtrain into this Python's environment")
    return Job(
        name=place.name,
        cron=expression,
        argv=(str(program), "retrain", *arguments),
        folder=Path.cwd(),
        log=place.path / "retrain.log",
        environment=_environment(program, os.environ),
        environment_file=_checked(file) if file else None,
        sbatch=sbatch,
    )


def _environment(program: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Return what a scheduler's bare environment lacks. What may be a secret stays out of it."""
    from deploy.registry.versions import without_password

    found = [str(program.parent), "/usr/local/bin", "/usr/bin", "/bin"]
    sbatch = shutil.which("sbatch")  # clusters have it where they like
    if sbatch and str(Path(sbatch).parent) not in found:
        found.insert(1, str(Path(sbatch).parent))
    kept = {key: environment[key] for key in _KEPT if environment.get(key)}
    uri = kept.get("MLFLOW_TRACKING_URI", "")
    secret = [key for key in _SECRETS if environment.get(key)]
    if uri != without_password(uri):
        secret.append("MLFLOW_TRACKING_URI")
        del kept["MLFLOW_TRACKING_URI"]
    if secret:
        print(
            f"warning: {', '.join(secret)}: set here, but secrets are not written into a schedule; put them into a "
            "file that only you may read, and give it as --env-file",
            file=sys.stderr,
        )
    return {"PATH": ":".join(found)} | kept


def _checked(file: Path) -> Path:
    from jobs.errors import InputError

    path = file.expanduser().absolute()
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise InputError(f"--env-file {file}: cannot be read ({error.strerror})") from error
    if mode & 0o077:
        raise InputError(f"--env-file {file}: found mode {mode & 0o777:04o}, expected 0600; chmod 600 {file}")
    return path


def _texts(job: "Job", kind: Kind) -> dict[str, str]:
    """Return the files by name."""
    from deploy.schedule import crontab, slurm, systemd

    if kind is Kind.SYSTEMD:
        return systemd.units(job)
    if kind is Kind.SLURM:
        return {f"{job.title}.sh": slurm.script(job)}
    if kind is Kind.SCRONTAB:
        return {f"{job.title}.scrontab": slurm.scrontab(job)}
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


def _install(job: "Job") -> None:
    from deploy.schedule.install import install

    changed, old = install(job)
    if not changed:
        print(f"crontab: {job.title} is there already, as it should be")
        return
    print(f"crontab: {'replaced' if old else 'installed'} {job.title}")
    if old:
        print(f"it was:\n{old}", end="", file=sys.stderr)
