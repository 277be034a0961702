"""The options that all stage commands share, and the run they mean."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from jobs.errors import InputError
from jobs.run_dir import RunDir, Work
from jobs.stage import is_done
from pipelines import run as runs
from pipelines.config import DEFAULT_RECIPE, Config, compose, data_set_name, validate


def complete_recipe(incomplete: str) -> list[str]:
    """Return the recipes that begin so: for the shell's completion."""
    from pipelines import recipes

    return [name for name in recipes.names() if name.startswith(incomplete)]


Data = Annotated[
    Path | None, typer.Option(help="Folder with the four IDX archives. Default: download or unpack --dataset.")
]
Dataset = Annotated[str | None, typer.Option(help="Data set of the catalog: mnist (default), fashion-mnist, kmnist.")]
Recipe = Annotated[
    str | None,
    typer.Option(help="Recipe by name, or a .toml file; see `idxtrain recipes`.", autocompletion=complete_recipe),
]
Np = Annotated[int | None, typer.Option("--np", min=1, help="Ranks to train on. Default: one a visible GPU, else one.")]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Set an option of the config; repeatable."),
]
Seed = Annotated[
    int | None, typer.Option(min=0, help="Seed of weights, row order and masks. Default: the recipe's or 0.")
]
SparkMaster = Annotated[str | None, typer.Option(help="Spark master URL. Default: local, on this machine's CPUs.")]
WorkFolder = Annotated[Path, typer.Option("--work", help="Folder for archives, datasets and runs.")]
RunId = Annotated[str | None, typer.Option(help="Name of the run; an existing one is gone on with.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would run, and run nothing.")]

WORK = Path("work")


@dataclass(frozen=True)
class Options:
    """What the command line said; None where it said nothing."""

    data: Path | None = None
    dataset: str | None = None
    recipe: str | None = None
    np: int | None = None
    assignments: tuple[str, ...] = ()
    seed: int | None = None
    spark_master: str | None = None
    work: Path = WORK
    run_id: str | None = None

    @property
    def place(self) -> Work:
        """The work directory, as an absolute path."""
        return Work(self.work.expanduser().resolve())

    def find_run(self) -> RunDir | None:
        """Return the run that --run-id names, if it exists."""
        return runs.find(self.place, self.run_id) if self.run_id else None

    def config(self, existing: RunDir | None) -> Config:
        """Return the config that the options describe; that of an existing run where they say nothing of it.

        Raises InputError where they describe another config than the existing run's.
        """
        if existing is None:
            return self._compose()
        if any((self.data, self.dataset, self.recipe, self.assignments, self.seed is not None)):
            wanted = self._compose()
            runs.require_same(existing, wanted)
        # On how many ranks and by which Spark a run goes on is free.
        values = runs.read_config(existing).to_json()
        if self.np is not None:
            values["launch"]["np"] = self.np
        if self.spark_master is not None:
            values["spark"]["master"] = self.spark_master
        return validate(values, "--run-id")

    def _compose(self) -> Config:
        data = self.data.expanduser().resolve() if self.data else None
        settings = {
            "fetch.data": str(data) if data else None,
            "fetch.dataset": self.dataset or (data_set_name(data) if data else None),
            "launch.np": self.np,
            "seed": self.seed,
            "spark.master": self.spark_master,
        }
        given = {key: value for key, value in settings.items() if value is not None}
        return compose(self.recipe or DEFAULT_RECIPE, given, self.assignments)

    def run(self, existing: RunDir | None, config: Config) -> RunDir:
        """Return the existing run, or make it, with the config as it is now."""
        run_id = existing.run_id if existing else self.run_id or runs.new_id(config.recipe)
        return runs.create(self.place, run_id, config)


def require_trained(options: Options) -> RunDir:
    """Return the run to evaluate: the one named, else the latest; raise InputError where there is none."""
    found = options.find_run() if options.run_id else runs.latest(options.place)
    if found is None:
        what = f"--run-id {options.run_id}" if options.run_id else "evaluate"
        raise InputError(f"{what}: found no such run in {options.place.runs}; train one with `idxtrain run`")
    if not is_done(found, "train"):
        raise InputError(f"run {found.run_id}: is not trained; run `idxtrain train --run-id {found.run_id}` first")
    return found
