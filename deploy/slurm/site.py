"""Sites: what jobs request on a cluster and how they start there, as TOML files. deploy/sites/ has examples."""

import os
import re
import shlex
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from jobs.config import Section, explain, nearest
from jobs.errors import InputError, one_line

FOLDER = "IDXTRAIN_SITES"  # the folder of the user's own sites
_OWN = "~/.config/idxtrain/sites"
SHIPPED = Path(__file__).parent.parent / "sites"

Launcher = Literal["srun", "srun-pmix", "mpirun", "horovodrun"]
JobStage = Literal["prepare", "train", "evaluate"]
Staged = Literal["environment", "shards"]
JOB_STAGES: tuple[JobStage, ...] = ("prepare", "train", "evaluate")


_VARIABLE = r"\$[A-Za-z_][A-Za-z0-9_]*|\$\{[A-Za-z_][A-Za-z0-9_]*\}"
_LINE = re.compile(rf'(?:[^"`\\$]|{_VARIABLE})*')


def _line(text: str) -> str:
    if not (text.isprintable() and _LINE.fullmatch(text)):
        raise PydanticCustomError(
            "line", 'expected one line of text in which only $NAME and ${NAME} are special, without ", ` and \\'
        )
    return text


def _option(text: str) -> str:
    try:
        words = shlex.split(text) if text.isprintable() else []
    except ValueError:  # a quote that is not closed
        words = []
    if not words:
        raise PydanticCustomError("option", "expected an option of sbatch on one line, with each quote closed")
    return text


# A word that Slurm reads as one word, on an #SBATCH line or as an argument; no shell expands anything in it.
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.,:/@+=\[\]&|*()-]+$")]
# A module: `module load` stands in the script, which bash runs.
Module = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.,:/@+=-]*$")]
# One line of text in which bash expands $NAME and ${NAME}, and nothing else: no $(…), no `…`. The script has it in
# double quotes.
Line = Annotated[str, AfterValidator(_line)]
# One option of sbatch(1), for an #SBATCH line.
Option = Annotated[str, StringConstraints(pattern=r"^--?[A-Za-z][^#]*$"), AfterValidator(_option)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


def _printable(text: str) -> str:
    if not (text.isprintable() and text.strip()):
        raise PydanticCustomError("shell", "expected one line for the shell, without control characters")
    return text


# A line of the script, which bash runs as it is.
ShellLine = Annotated[str, AfterValidator(_printable)]


class Resources(Section):
    """What one job requests. Slurm decides where a key is None; for partition, account and QOS, the site does."""

    partition: Word | None = Field(default=None, description="Partition of the job. `none`: the site's.")
    account: Word | None = Field(default=None, description="Account that is charged. `none`: the site's.")
    qos: Word | None = Field(default=None, description="Quality of service of the job. `none`: the site's.")
    time: str | None = Field(
        default=None,
        pattern=r"^(\d+|\d+:\d\d|\d+:\d\d:\d\d|\d+-\d+(:\d\d){0,2})$",  # sbatch(1)
        description='Time limit, as sbatch reads it: "90" (minutes), "01:30:00" or "1-12". `none`: Slurm\'s default.',
    )
    nodes: int = Field(default=1, ge=1, description="Nodes of the job. Evaluate runs one rank on each.")
    cpus: int | None = Field(
        default=None,
        ge=1,
        description=(
            "CPUs per rank. Prepare and evaluate run one process per node: for them, CPUs per node. "
            "`none`: Slurm's default."
        ),
    )
    memory: str | None = Field(
        default=None,
        pattern=r"^\d+[KMGT]?$",
        description='Memory per node, such as "32G"; without a unit, in MB. `none`: Slurm\'s default.',
    )
    gpus_per_node: int = Field(default=0, ge=0, description="GPUs per node. 0: none.")
    gpu_type: Word | None = Field(
        default=None, description='Type of the GPUs, as Slurm names it, such as "v100-32". `none`: any.'
    )
    options: tuple[Option, ...] = Field(
        default=(), description='More options of sbatch for this job, such as "--constraint=gpu".'
    )


class TrainResources(Resources):
    """What the training job requests."""

    ranks_per_node: int = Field(default=1, ge=1, description="Ranks per node. The world size is `nodes` times this.")
    warn_seconds: int = Field(
        default=120,
        ge=10,
        le=65535,
        description=(
            "How many seconds before the time limit the ranks are asked to write a checkpoint. "
            "Slurm may ask up to a minute early."
        ),
    )


class Site(Section):
    """A cluster, or one kind of its nodes."""

    about: str = Field(default="", description="One line that describes the cluster.")
    launcher: Launcher = Field(
        default="srun",
        description=(
            "How the ranks start. `srun` needs no MPI; `srun-pmix` and `mpirun` need a Horovod built with MPI "
            "(`make mpi-env`); `horovodrun` needs SSH between nodes."
        ),
    )
    partition: Word | None = Field(default=None, description="Partition of all jobs. `none`: Slurm's default.")
    account: Word | None = Field(default=None, description="Account that is charged. `none`: Slurm's default.")
    qos: Word | None = Field(default=None, description="Quality of service of all jobs. `none`: Slurm's default.")
    modules: tuple[Module, ...] = Field(
        default=(), description='Environment modules that each job loads first, such as "cuda/12.4".'
    )
    setup: tuple[ShellLine, ...] = Field(
        default=(),
        description=(
            'Lines for the shell that each job runs after loading its modules, such as "module use ~/modules" or '
            '"ulimit -n 65536". A line that fails ends the job.'
        ),
    )
    container: Line | None = Field(
        default=None,
        description=(
            "Apptainer image in which stages and ranks run; its PATH must begin with this environment. "
            "`none`: no container."
        ),
    )
    interface: Word | None = Field(
        default=None,
        description=(
            'Network interface between the nodes, such as "ib0". `none`: the one whose route leads to the other nodes.'
        ),
    )
    scratch: Line = Field(
        default="/tmp",  # noqa: S108 (each job makes a private folder in it)
        description="Node-local folder for temporary files. Each job makes a private folder in it and removes it.",
    )
    stage: tuple[Staged, ...] = Field(
        default=(),
        description=(
            'What each node copies to `scratch` once per job, and reads there: "environment", this Python environment; '
            '"shards", in the training, each file of the dataset that its ranks read.'
        ),
    )
    spark: str = Field(
        default="local",
        pattern=r"^(local|standalone|yarn|(spark|k8s)://[A-Za-z0-9_.,:/@-]+)$",
        description=(
            "Where prepare runs Spark, unless `--spark-master` is given. `local`: on its one node; `standalone`: on "
            "all nodes of the prepare job; else the URL of a running master, or `yarn`."
        ),
    )
    requeue: bool = Field(
        default=True,
        description=(
            "Whether an interrupted job returns to the queue under its ID. `false`: it is submitted again as a new job."
        ),
    )
    environment: dict[Name, Line] = Field(
        default_factory=dict,
        description="Environment variables that each job exports, such as HOROVOD_CYCLE_TIME or NCCL_DEBUG.",
    )
    options: tuple[Option, ...] = Field(
        default=(), description='More options of sbatch for all jobs, such as "--exclusive".'
    )
    prepare: Resources = Field(default=Resources(), description="What the job that runs fetch and prepare requests.")
    train: TrainResources = Field(default=TrainResources(), description="What the training job requests.")
    evaluate: Resources = Field(default=Resources(), description="What the evaluation job requests.")

    @model_validator(mode="after")
    def _prepare_uses_its_nodes(self) -> Self:
        if self.prepare.nodes > 1 and self.spark != "standalone":
            raise ValueError(
                f'prepare.nodes: found {self.prepare.nodes} with spark = "{self.spark}", expected 1; '
                'fix: set spark = "standalone"'
            )
        return self

    @model_validator(mode="after")
    def _nodes_can_stage(self) -> Self:
        if "environment" in self.stage and self.container is not None:
            raise ValueError(
                'stage: found "environment" with a container, which is one file already; fix: leave one of them out'
            )
        if "shards" in self.stage and self.launcher not in ("srun", "srun-pmix"):
            raise ValueError(
                f'stage: found "shards" with launcher = "{self.launcher}", expected srun or srun-pmix; '
                "fix: leave out one of them"
            )
        return self

    @property
    def ranks(self) -> int:
        """The number of ranks that train, the world size."""
        return self.train.nodes * self.train.ranks_per_node

    def evaluating(self) -> "Site":
        """Return the site whose ranks are those of an evaluation: one on each node of its job."""
        return self.model_copy(update={"train": TrainResources(**self.evaluate.model_dump())})

    def resources(self, stage: JobStage) -> Resources:
        """Return what a stage's job requests."""
        resources: Resources = getattr(self, stage)
        return resources


def names(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the names of all sites, sorted: the user's own and those that come with the project."""
    return sorted({path.stem for folder in _folders(environment) for path in folder.glob("*.toml")})


def read(name: str, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Read a site's file, found by name or by the path of a .toml file. The user's own sites come first.

    Raises InputError if there is no such site, or its file is not TOML.
    """
    if name.endswith(".toml"):
        path = Path(name).expanduser()
    else:
        candidates = [folder / f"{name}.toml" for folder in _folders(environment)]
        site_file = next((path for path in candidates if path.is_file()), None)
        if site_file is None or Path(name).name != name:
            known = names(environment)
            near = nearest(name, known)
            raise InputError(
                f"--site {name}: found no such site; {f'did you mean {near}? ' if near else ''}expected one of "
                f"{', '.join(known)}, or a .toml file"
            )
        path = site_file
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"--site {path}: cannot be read ({error.strerror}); fix: give a site's name or an existing file"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"--site {path}: found invalid TOML ({one_line(error)}), expected a site; fix: see `idxtrain config site`"
        ) from error


def validate(values: Mapping[str, Any], origin: str) -> Site:
    """Return the site with these values; raise InputError, naming the key, if they are not valid."""
    try:
        return Site.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{origin}: {explain(Site, error.errors()[0])}") from error


def _folders(environment: Mapping[str, str]) -> list[Path]:
    return [Path(environment.get(FOLDER) or _OWN).expanduser(), SHIPPED]
