"""What all measures share: the archives, once and repeated, runs made of them, and how much is measured."""

import gzip
import itertools
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
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

    `images`: timed in a training, in `calls` calls of `steps_per_execution` steps, after one untimed call. `epoch`:
    images of a whole epoch, in `epoch_calls` calls, the first untimed. `lecture_steps`, `keras_epochs`: length of the
    peers in full; `lecture_part` (steps), `keras_part` (images): their length in the other rounds. `factor`: how often
    the archives are repeated to measure growth. `matrices`: sizes of the matrix products for the arithmetic peak.
    `settings`: further settings of `idxtrain run`.
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
    """A folder for one benchmark: `archives-N/` holds the archives repeated N times, `work/` is the work folder."""

    def __init__(
        self,
        folder: Path,
        sizes: Sizes,
        archives: Path | None = None,
        torch: Path | None = None,
        full_rounds: int = 0,
    ) -> None:
        """`archives`: default MNIST from the offline package. `torch`: a Python with PyTorch, if any.

        `full_rounds`: how many rounds run the peers of `to_accuracy` in full.
        """
        self.folder, self.sizes, self.torch, self.full_rounds = folder, sizes, torch, full_rounds
        self.work = folder / "work"
        self._archives = archives
        self._base: dict[tuple[int, str], RunDir] = {}
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
        """Return the config of a run on the archives, repeated `factor` times."""
        folder = self.archives(factor)
        source = {"fetch.data": str(folder), "fetch.dataset": data_set_name(folder)}
        return compose(recipe, source | dict(settings))

    def new_run(self, config: Config) -> RunDir:
        """Make a run with no finished stage."""
        run_dir = RunDir(self.work / "runs" / f"bench-{next(self._numbers)}")
        run_dir.path.mkdir(parents=True)
        write_json(run_dir.config_file, config.to_json())
        return run_dir

    def prepared_run(self, recipe: str, settings: Mapping[str, Any], factor: int = 1) -> RunDir:
        """Make a run that is ready to train. The dataset is made once."""
        config = self.config(factor, recipe, settings)
        key = factor, config.prepare.pixels
        if key not in self._base:
            self._base[key] = base = self.new_run(config)
            for stage in ("fetch", "prepare"):
                run_stage(base, stage)
        run_dir = self.new_run(config)
        shutil.copytree(self._base[key].path / "stages", run_dir.path / "stages")
        return run_dir

    def dataset(self, factor: int = 1, settings: Mapping[str, Any] = MappingProxyType({})) -> Path:
        """Return the folder of the prepared dataset."""
        return Path(read_record(self.prepared_run("lecture", settings, factor), "prepare").outputs["dataset"])


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
    """Write an archive with the rows of another, repeated `factor` times.

    The rows are compressed once, because concatenated gzip files are a gzip file.
    """
    array = idx.read(source)
    with gzip.open(source) as plain:
        start = plain.read(4 + 4 * array.ndim)
        body = gzip.compress(plain.read(), 6)
    rows = (factor * len(array)).to_bytes(4, "big")
    target.write_bytes(gzip.compress(start[:4] + rows + start[8:]) + factor * body)


def run_stage(run_dir: RunDir, stage: str, watch_memory: bool = False) -> Done:
    """Run one stage in a process of its own."""
    return run([sys.executable, "-m", f"jobs.{stage}", str(run_dir.path)], watch_memory=watch_memory)


def run_training(made: RunDir, ranks: int = 1, threads: int | None = None, module: str = "jobs.train") -> float:
    """Run a training as `idxtrain run` starts it; return images per second of all ranks together.

    `threads`: per rank; None: its share of the machine. `module`: the program that replaces the stage's.
    """
    how = launch("train", made.path, ranks, Config.model_validate(made.read_config()).launch)
    if module != "jobs.train":
        how = launch_ranks([sys.executable, "-m", module, str(made.path)], ranks, LaunchConfig(max_restarts=0))
    run(how.argv, {**how.environment, **({CPUS: str(threads)} if threads else {})})
    return float(read_record(made, "train").outputs["images_per_second"])
