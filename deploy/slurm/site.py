"""Sites: what a cluster offers and wants, as TOML files. See deploy/sites/ for examples."""

import os
import re
import shlex
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from jobs.config import Section, explain
from jobs.errors import InputError, one_line

FOLDER = "IDXTRAIN_SITES"  # the user's own folder of sites
_OWN = "~/.config/idxtrain/sites"
_OURS = Path(__file__).parent.parent / "sites"

Launcher = Literal["srun", "srun-pmix", "mpirun", "horovodrun"]
JobStage = Literal["prepare", "train", "evaluate"]
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


# A word that Slurm takes for nothing else, on an #SBATCH line or as an argument: no shell reads it.
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.,:/@+=\[\]&|*()-]+$")]
# A module: `module load` stands in the script, which bash runs.
Module = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.,:/@+=-]*$")]
# One line of text in which $NAME and ${NAME} stand for variables of the node, and nothing else for anything: no $(…),
# no `…`. It is put into double quotes in the script, which bash runs.
Line = Annotated[str, AfterValidator(_line)]
# One option of sbatch(1), for an #SBATCH line.
Option = Annotated[str, StringConstraints(pattern=r"^--?[A-Za-z][^#]*$"), AfterValidator(_option)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Resources(Section):
    """What one job asks for. What is None is left to Slurm; partition, account and QOS: to the site's own."""

    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    time: str | None = Field(default=None, pattern=r"^(\d+|\d+:\d\d|\d+:\d\d:\d\d|\d+-\d+(:\d\d){0,2})$")  # sbatch(1)
    nodes: int = Field(default=1, ge=1)
    cpus: int | None = Field(default=None, ge=1)  # of each rank; a stage that is no training has one process a node
    memory: str | None = Field(default=None, pattern=r"^\d+[KMGT]?$")  # of each node
    gpus_per_node: int = Field(default=0, ge=0)
    gpu_type: Word | None = None
    options: tuple[Option, ...] = ()  # further #SBATCH lines, e.g. "--constraint=gpu"


class TrainResources(Resources):
    """What the training asks for."""

    ranks_per_node: int = Field(default=1, ge=1)
    # So long before the time limit the ranks are told to write a checkpoint. Slurm may be a minute early.
    warn_seconds: int = Field(default=120, ge=10, le=65535)


class Site(Section):
    """A cluster, or a part of one."""

    about: str = ""
    launcher: Launcher = "srun"
    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    modules: tuple[Module, ...] = ()
    container: Line | None = None  # an Apptainer image, which holds what the stages and ranks run
    interface: Word | None = None  # the network between the nodes; None: the one that leads to the other nodes
    scratch: Line = "/tmp"  # noqa: S108 (made private, a folder each job)
    # Where prepare's Spark runs, unless --spark-master says: within its node; as a cluster of its own on all nodes of
    # the job; or on one that is there.
    spark: str = Field(default="local", pattern=r"^(local|standalone|yarn|(spark|k8s)://[A-Za-z0-9_.,:/@-]+)$")
    requeue: bool = True  # False: a job that is to go on is submitted anew
    environment: dict[Name, Line] = Field(default_factory=dict)
    options: tuple[Option, ...] = ()
    prepare: Resources = Resources()
    train: TrainResources = TrainResources()
    evaluate: Resources = Resources()

    @model_validator(mode="after")
    def _prepare_uses_its_nodes(self) -> Self:
        if self.prepare.nodes > 1 and self.spark != "standalone":
            raise ValueError(
                f'prepare.nodes: found {self.prepare.nodes} with spark = "{self.spark}", expected 1; '
                'set spark = "standalone"'
            )
        return self

    @property
    def ranks(self) -> int:
        """How many ranks train."""
        return self.train.nodes * self.train.ranks_per_node

    def resources(self, stage: JobStage) -> Resources:
        """Return what a stage's job asks for."""
        found: Resources = getattr(self, stage)
        return found


def names(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the names of all sites: the user's own and those that come with the project."""
    return sorted({path.stem for folder in _folders(environment) for path in folder.glob("*.toml")})


def read(name: str, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return the values of a site's file, by name or by the path of a .toml file; the user's own come first.

    Raises InputError where there is none, or it is no TOML.
    """
    if name.endswith(".toml"):
        path = Path(name).expanduser()
    else:
        places = [folder / f"{name}.toml" for folder in _folders(environment)]
        found = next((place for place in places if place.is_file()), None)
        if found is None or Path(name).name != name:
            known = ", ".join(names(environment))
            raise InputError(f"--site {name}: found no such site, expected one of {known}, or a .toml file")
        path = found
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"--site {path}: cannot be read ({error.strerror}); name a site or a file that is there"
        ) from (error)
    except (ValueError, RecursionError) as error:
        raise InputError(f"--site {path}: is not TOML: {one_line(error)}; see deploy/sites for examples") from error


def validate(values: Mapping[str, Any], origin: str) -> Site:
    """Return the site that these values make; raise InputError, naming the key, where they make none."""
    try:
        return Site.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{origin}: {explain(Site, error.errors()[0])}") from error


def _folders(environment: Mapping[str, str]) -> list[Path]:
    return [Path(environment.get(FOLDER) or _OWN).expanduser(), _OURS]
