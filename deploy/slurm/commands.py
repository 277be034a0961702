"""How stages start inside an allocation, as values: argv, environment, and the signal that asks for a checkpoint."""

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.launcher.config import LaunchConfig
from deploy.launcher.launch import Launch, launch_evaluation, launch_ranks
from deploy.slurm.site import Resources, Site
from jobs.errors import InputError
from jobs.prepare.config import MASTER
from jobs.process import PARENT
from jobs.python import module_command
from jobs.train.compute.devices import GPUS

# These launchers pass their environment to ranks that are not their children, or run on another node.
_NO_PARENT = {PARENT: ""}
_MPI = {"HOROVOD_CONTROLLER": "mpi", "HOROVOD_CPU_OPERATIONS": "mpi", **_NO_PARENT}
# No step waits for another. Tasks get the launcher's environment, even in a job with --export=NONE.
_STEP = ("--overlap", "--export=ALL")
_CONTAINER_PYTHON = "python"  # the image's PATH must begin with its environment


def stage_command(site: Site, python: str, stage: str, run_dir: Path) -> tuple[str, ...]:
    """Return the argv of a stage's process, or of one rank of a training; in the site's container if it has one."""
    return site_command(site, python, run_dir, f"jobs.{stage}", str(run_dir))


def site_command(site: Site, python: str, run_dir: Path, module: str, *arguments: str) -> tuple[str, ...]:
    """Return the argv that runs a module as the site's stages run: with `python`, or in the site's container.

    `run_dir`: WORK/runs/ID; a container sees WORK.
    """
    if site.container is None:
        return module_command(module, *arguments, python=python)
    gpus = ("--nv",) if site.train.gpus_per_node else ()
    work = str(run_dir.parent.parent)
    command = module_command(module, *arguments, python=_CONTAINER_PYTHON)
    return ("apptainer", "exec", *gpus, "--bind", work, site.container, *command)


def prepare_launch(site: Site, master: str, python: str, run_dir: Path) -> Launch:
    """Return how prepare starts from the batch step. `master`: the config's; with `local`, the site decides."""
    command = stage_command(site, python, "prepare", run_dir)
    if master != "local" or site.spark == "local":
        return Launch(command)
    if site.spark != "standalone":
        return Launch(command, {MASTER: site.spark})
    options = ["--site", str(_site_file(run_dir)), "--run-dir", str(run_dir)]
    return Launch(module_command("deploy.spark.cluster", *options, *command, python=python))


def evaluate_launch(site: Site, python: str, run_dir: Path) -> Launch:
    """Return how evaluate starts from the batch step: as one process, or as a rank on each of its job's nodes.

    The ranks need no MPI, as they do not talk to each other, so our launcher starts them at every site.
    """
    command, nodes = stage_command(site, python, "evaluate", run_dir), site.evaluate.nodes
    return launch_evaluation(command, nodes, run_dir, _site_file(run_dir), python) if nodes > 1 else Launch(command)


def spark_is_ours(site: Site, master: str) -> bool:
    """Return whether Spark runs on this job's nodes alone. `master`: the config's; with `local`, the site decides."""
    where = site.spark if master == "local" else master
    return where.startswith(("local", "standalone"))


def spark_step(site: Site, nodes: int) -> tuple[str, ...]:
    """Return the srun under which `deploy.spark.cluster` starts a supervisor on each of the job's first N nodes.

    Each supervisor reads what is written to srun's stdin.
    """
    return one_task_per_node(nodes, *_cpus(site.prepare), "--input=all")


def one_task_per_node(nodes: int, *options: str) -> tuple[str, ...]:
    """Return the srun that starts one task on each of the job's first N nodes; a task that ends ends no other."""
    placement = [f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--relative=0"]
    return ("srun", *placement, *_STEP, "--mpi=none", "--wait=0", "--kill-on-bad-exit=0", *options)


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training to start from the batch step. `hosts`: the allocation's nodes, for launchers that do not ask Slurm."""

    site: Site
    config: LaunchConfig
    python: str
    run_dir: Path
    ranks: int
    hosts: Sequence[str]

    @property
    def rank_command(self) -> tuple[str, ...]:
        """The argv of one rank."""
        return stage_command(self.site, self.python, "train", self.run_dir)

    @property
    def gpus(self) -> dict[str, str]:
        """What tells a rank that it must have a GPU, where no task of ours does."""
        gpus = self.site.train.gpus_per_node
        return {GPUS: str(gpus)} if gpus else {}

    @property
    def task_command(self) -> tuple[str, ...]:
        """The argv of one rank where no task of ours starts it: with temporary files of its own, on its node."""
        return module_command("deploy.slurm.in_scratch", *self.rank_command, python=self.python)


def train_launch(
    site: Site, config: LaunchConfig, python: str, run_dir: Path, ranks: int, hosts: Sequence[str]
) -> Launch:
    """Return how the training starts from the batch step: see `Training`."""
    launcher = LAUNCHERS.get(site.launcher)
    if launcher is None:
        raise InputError(f"launcher: found {site.launcher!r}, expected one of {', '.join(LAUNCHERS)}; fix: choose one")
    return launcher(Training(site=site, config=config, python=python, run_dir=run_dir, ranks=ranks, hosts=hosts))


def _by_srun(training: Training) -> Launch:
    """Our launcher, which starts the ranks with srun and meets them at its own rendezvous."""
    site_file = _site_file(training.run_dir)
    return launch_ranks(
        training.rank_command, training.ranks, training.config, training.run_dir, site_file, training.python
    )


def _by_srun_pmix(training: Training) -> Launch:
    argv = (*srun(training.site, training.ranks, "--mpi=pmix", "--kill-on-bad-exit=1"), *training.task_command)
    # srun forwards SIGUSR1 to the ranks; at SIGTERM it kills them.
    return Launch(argv, {**_MPI, **training.gpus}, signal.SIGUSR1)


def _by_mpirun(training: Training) -> Launch:
    site = training.site
    network = ["--mca", "btl_tcp_if_include", site.interface] if site.interface else []
    placement = ("--map-by", f"ppr:{site.train.ranks_per_node}:node", "--bind-to", "none")
    exported = [word for name in sorted({**_MPI, **training.gpus}) for word in ("-x", name)]
    argv = ("mpirun", "-np", str(training.ranks), *placement, *network, *exported, *training.task_command)
    for_its_srun = {"SLURM_EXPORT_ENV": "ALL"}
    return Launch(argv, {**_MPI, **training.gpus, **for_its_srun}, signal.SIGUSR1)


def _by_horovodrun(training: Training) -> Launch:
    site = training.site
    network = ["--network-interfaces", site.interface] if site.interface else []
    slots = ",".join(f"{host}:{site.train.ranks_per_node}" for host in training.hosts)
    argv = ("horovodrun", "--gloo", "-np", str(training.ranks), "-H", slots, *network, *training.rank_command)
    return Launch(argv, {**_NO_PARENT, **training.gpus})


# By the values of a site's `launcher`; a test holds them to `deploy.slurm.site.Launcher`.
LAUNCHERS: dict[str, Callable[[Training], Launch]] = {
    "srun": _by_srun,
    "srun-pmix": _by_srun_pmix,
    "mpirun": _by_mpirun,
    "horovodrun": _by_horovodrun,
}


def rank_step(site: Site, ranks: int) -> tuple[str, ...]:
    """Return the srun under which our launcher starts ranks: the launcher decides what a rank's end means."""
    return srun(site, ranks, "--mpi=none", "--wait=0", "--kill-on-bad-exit=0")


def srun(site: Site, ranks: int, *options: str) -> tuple[str, ...]:
    """Return the srun that starts a step of N ranks, which fill one node after another, in Horovod's order."""
    resources = site.train
    nodes = min(resources.nodes, -(-ranks // resources.ranks_per_node))
    placement = [f"--nodes={nodes}", f"--ntasks={ranks}", f"--ntasks-per-node={resources.ranks_per_node}"]
    placement += ["--distribution=block", *_cpus(resources)]
    return ("srun", *placement, *_STEP, "--input=none", *options)


def _cpus(resources: Resources) -> list[str]:
    """Return a step's option for its CPUs: since Slurm 22.05, a step does not inherit it from the job."""
    return [f"--cpus-per-task={resources.cpus}"] if resources.cpus else []


def _site_file(run_dir: Path) -> Path:
    """Return where the run's site lies as JSON."""
    return run_dir / "slurm" / "site.json"
