"""What all measures share: the archives, small and many times over, runs made of them, and how much is measured."""

import gzip
import itertools
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.launcher.config import LaunchConfig
from deploy.launcher.launch import launch, launch_ranks
from jobs.fetch.catalog import CATALOG
from jobs.fetch.names import find
from jobs.fetch.offline import OfflinePackage
from jobs.files import write_json
from jobs.prepare import idx
from jobs.run_dir import RunDir
from jobs.stage import read_record
from jobs.train.compute.devices import CPUS
from pipelines.config import Config, compose, data_set_name
from tests.benchmarks.timing import Done, run


@dataclass(frozen=True)
class Sizes:
    """How much is measured: FULL by `make bench`, TINY by the tests, on the same path.

    `images`: timed in a training, in so many `calls` of the graph, after one that is not. `epoch`: images of a whole
    epoch, in `epoch_calls` calls of which the first is not timed. `lecture_steps` and
    `keras_epochs`: the peers in full; `lecture_part`, steps, and `keras_part`, images: in a round that does not run
    them in full. `factor`: how often the archives are repeated where growth is measured. `matrices`: sizes of the
    products that the arithmetic peak is taken of. `settings`: of `idxtrain run`, beside its own.
    """

    images: int = 9_600
    calls: int = 3
    epoch: int = 55_000
    epoch_calls: int = 10
    lecture_steps: int = 20_000
    lecture_part: int = 500
    keras_epochs: int = 11
    keras_part: int = 12_000
    factor: int = 20
    matrices: tuple[int, ...] = (1024, 2048, 4096)
    settings: tuple[str, ...] = ()


FULL = Sizes()
TINY = Sizes(256, 1, 512, 2, 8, 4, 2, 300, 2, (64,), ("train.epochs=1",))


class Room:
    """A folder for one benchmark: `archives-N/` are the archives N times over, `work/` is idxtrain's own."""

    def __init__(
        self,
        folder: Path,
        sizes: Sizes,
        archives: Path | None = None,
        torch: Path | None = None,
        full_rounds: int = 0,
    ) -> None:
        """`archives`: MNIST's from the offline package, unless given. `torch`: a Python that has PyTorch, if any.

        `full_rounds`: how many rounds run the peers of `to_accuracy` in full.
        """
        self.folder, self.sizes, self.torch, self.full_rounds = folder, sizes, torch, full_rounds
        self.work = folder / "work"
        self._archives = archives
        self._base: dict[int, RunDir] = {}
        self._numbers = itertools.count(1)
        self.stage_runs: dict[tuple[int, int, str], Done] = {}  # see measures.stages

    def archives(self, factor: int = 1) -> Path:
        """Return the folder of the four .gz archives, their rows repeated `factor` times."""
        if factor == 1:
            self._archives = self._archives or write_mnist(self.folder / "archives-1")
            return self._archives
        folder = self.folder / f"archives-{factor}"
        if not folder.exists():
            folder.mkdir()
            for path in find(self.archives()).values():
                repeat(path, folder / path.name, factor)
        return folder

    def config(self, factor: int, recipe: str, settings: Mapping[str, Any]) -> Config:
        """Return the config of a run on these archives."""
        folder = self.archives(factor)
        where = {"fetch.data": str(folder), "fetch.dataset": data_set_name(folder)}
        return compose(recipe, where | dict(settings))

    def new_run(self, config: Config) -> RunDir:
        """Make a run of which no stage is done."""
        made = RunDir(self.work / "runs" / f"bench-{next(self._numbers)}")
        made.path.mkdir(parents=True)
        write_json(made.config_file, config.to_json())
        return made

    def prepared_run(self, recipe: str, settings: Mapping[str, Any], factor: int = 1) -> RunDir:
        """Make a run that is ready to train: its dataset is made once."""
        config = self.config(factor, recipe, settings)
        if factor not in self._base:
            self._base[factor] = base = self.new_run(config)
            for stage in ("fetch", "prepare"):
                run_stage(base, stage)
        made = self.new_run(config)
        shutil.copytree(self._base[factor].path / "stages", made.path / "stages")
        return made

    def dataset(self, factor: int = 1) -> Path:
        """Return the directory of the prepared dataset."""
        return Path(read_record(self.prepared_run("lecture", {}, factor), "prepare").outputs["dataset"])


def write_mnist(folder: Path) -> Path:
    """Write MNIST's four archives as .gz, from the offline package."""
    folder.mkdir()
    for role, archive in CATALOG["mnist"].archives.items():
        plain = OfflinePackage().get(role, archive, folder)
        with plain.open("rb") as source, gzip.open(folder / archive.gz_name, "wb", compresslevel=6) as packed:
            shutil.copyfileobj(source, packed)
        plain.unlink()
    return folder


def repeat(source: Path, target: Path, factor: int) -> None:
    """Write an archive whose rows are those of another, `factor` times over, compressed alike.

    Gzip files put together are a gzip file: the rows are compressed once.
    """
    array = idx.read(source)
    with gzip.open(source) as plain:
        start = plain.read(4 + 4 * array.ndim)
        body = gzip.compress(plain.read(), 6)
    rows = (factor * len(array)).to_bytes(4, "big")
    target.write_bytes(gzip.compress(start[:4] + rows + start[8:]) + factor * body)


def run_stage(made: RunDir, stage: str, watch_memory: bool = False) -> Done:
    """Run one stage of a run, as a process of its own."""
    return run([sys.executable, "-m", f"jobs.{stage}", str(made.path)], watch_memory=watch_memory)


def run_training(made: RunDir, ranks: int = 1, threads: int | None = None, module: str = "jobs.train") -> float:
    """Run a training as `idxtrain run` starts it; return its images a second, all ranks together.

    `threads`: of each rank; None: its share of the machine. `module`: another program in the place of the stage's.
    """
    how = launch("train", made.path, ranks, Config.model_validate(made.read_config()).launch)
    if module != "jobs.train":
        how = launch_ranks([sys.executable, "-m", module, str(made.path)], ranks, LaunchConfig(max_restarts=0))
    run(how.argv, {**how.environment, **({CPUS: str(threads)} if threads else {})})
    return float(read_record(made, "train").outputs["images_per_second"])
