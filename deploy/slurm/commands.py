"""How stages start inside an allocation, as values: argv, environment, and the signal that asks for a checkpoint."""

import signal
from collections.abc import Sequence
from pathlib import Path

from deploy.launcher.config import LaunchConfig
from deploy.launcher.launch import Launch
from deploy.slurm.site import Resources, Site
from jobs.prepare.config import MASTER
from jobs.process import PARENT
from jobs.python import module_command

# These launchers hand their environment on to ranks that are not their children, nor on their node.
_NO_PARENT = {PARENT: ""}
_MPI = {"HOROVOD_CONTROLLER": "mpi", "HOROVOD_CPU_OPERATIONS": "mpi", **_NO_PARENT}
_CONTAINER_PYTHON = "python"  # the image's: it has to have the environment's first on its PATH


def stage_command(site: Site, python: str, stage: str, run_dir: Path) -> tuple[str, ...]:
    """Return the argv of a stage's process, or of one rank of a training; in the site's container, if it has one."""
    return inside(site, python, run_dir, f"jobs.{stage}", str(run_dir))


def inside(site: Site, python: str, run_dir: Path, module: str, *arguments: str) -> tuple[str, ...]:
    """Return the argv that runs a module with what the site's stages run with. `run_dir`: in the work directory."""
    if site.container is None:
        return module_command(module, *arguments, python=python)
    gpus = ("--nv",) if site.train.gpus_per_node else ()
    work = str(run_dir.parent.parent)
    command = module_command(module, *arguments, python=_CONTAINER_PYTHON)
    return ("apptainer", "exec", *gpus, "--bind", work, site.container, *command)


def prepare_launch(site: Site, master: str, python: str, run_dir: Path) -> Launch:
    """Return how prepare starts from the batch step. `master`: the config's; `local` leaves it to the site."""
    command = stage_command(site, python, "prepare", run_dir)
    if master != "local" or site.spark == "local":
        return Launch(command)
    if site.spark != "standalone":
        return Launch(command, {MASTER: site.spark})
    options = ["--site", str(run_dir / "slurm" / "site.json"), "--run-dir", str(run_dir)]
    return Launch(module_command("deploy.spark.cluster", *options, *command, python=python))


def spark_step(site: Site, nodes: int) -> tuple[str, ...]:
    """Return the srun under which `deploy.spark.cluster` starts a keeper on each of so many nodes of prepare's job.

    All of them read what is written to its stdin.
    """
    return task_a_node(nodes, *_cpus(site.prepare), "--input=all")


def task_a_node(nodes: int, *further: str) -> tuple[str, ...]:
    """Return the srun that starts one task on each of the first so many nodes; none's end is the others' end."""
    options = ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--relative=0"]
    return (*options, "--overlap", "--mpi=none", "--wait=0", "--kill-on-bad-exit=0", *further)


def train_launch(
    site: Site, config: LaunchConfig, python: str, run_dir: Path, ranks: int, hosts: Sequence[str]
) -> Launch:
    """Return how the training starts from the batch step. `hosts`: the allocation's nodes, for those that ask."""
    command = stage_command(site, python, "train", run_dir)
    if site.launcher == "srun":
        options = _gang_options(site, config, run_dir, ranks)
        return Launch(module_command("deploy.launcher", *options, *command, python=python))
    if site.launcher == "srun-pmix":
        # srun forwards SIGUSR1 to the ranks; a SIGTERM it takes as the order to kill them.
        return Launch((*srun(site, ranks, "--mpi=pmix", "--kill-on-bad-exit=1"), *command), _MPI, signal.SIGUSR1)
    if site.launcher == "mpirun":
        network = ["--mca", "btl_tcp_if_include", site.interface] if site.interface else []
        place = ("--map-by", f"ppr:{site.train.ranks_per_node}:node", "--bind-to", "none")
        exported = [word for name in sorted(_MPI) for word in ("-x", name)]
        return Launch(("mpirun", "-np", str(ranks), *place, *network, *exported, *command), _MPI, signal.SIGUSR1)
    network = ["--network-interfaces", site.interface] if site.interface else []
    slots = ",".join(f"{host}:{site.train.ranks_per_node}" for host in hosts)
    return Launch(("horovodrun", "--gloo", "-np", str(ranks), "-H", slots, *network, *command), _NO_PARENT)


def step(site: Site, ranks: int) -> tuple[str, ...]:
    """Return the srun under which `deploy.launcher.launcher` starts ranks: it is the gang that judges how one ended."""
    return srun(site, ranks, "--mpi=none", "--wait=0", "--kill-on-bad-exit=0")


def srun(site: Site, ranks: int, *further: str) -> tuple[str, ...]:
    """Return the srun that starts a step of so many ranks, filling node by node as Horovod counts them."""
    wanted = site.train
    nodes = min(wanted.nodes, -(-ranks // wanted.ranks_per_node))
    options = ["srun", f"--nodes={nodes}", f"--ntasks={ranks}"]
    options += [f"--ntasks-per-node={wanted.ranks_per_node}", "--distribution=block"]
    options += _cpus(wanted)
    return (*options, "--overlap", "--input=none", *further)  # --overlap: no step waits for another


def _cpus(wanted: Resources) -> list[str]:
    """Return what a step has to say of its CPUs: since 22.05 it does not take them over from the job."""
    return [f"--cpus-per-task={wanted.cpus}"] if wanted.cpus else []


def _gang_options(site: Site, config: LaunchConfig, run_dir: Path, ranks: int) -> list[str]:
    options = ["--np", str(ranks), "--run-dir", str(run_dir), "--stall-seconds", f"{config.stall_seconds:g}"]
    options += ["--max-restarts", str(config.max_restarts)]
    if config.min_np is not None:
        options += ["--min-np", str(config.min_np)]
    return [*options, "--site", str(run_dir / "slurm" / "site.json")]
