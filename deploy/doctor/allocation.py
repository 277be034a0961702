"""Gather the facts of `idxtrain doctor --site`: from every node of its job, and from an allreduce over all of them."""

import json
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from deploy.doctor.node import ADDRESS, CLOCK, INTERFACE, NodeFacts
from deploy.slurm import commands, network, queue
from deploy.slurm.site import Site
from deploy.slurm.step import Allocation
from jobs.errors import IdxtrainError, InputError
from jobs.python import clean_environment
from jobs.run_dir import Work

_NODE_SECONDS = 120.0  # Python from a cold network file system, then the wait for files
_RANKS_SECONDS = 600.0  # TensorFlow from that file system
_POLL_SECONDS = 0.1


def nodes_of(site: Site, name: str, environment: Mapping[str, str]) -> list[str]:
    """Return the nodes of the allocation that this process runs in; raise InputError outside an allocation."""
    if "SLURMD_NODENAME" in environment and "SLURM_JOB_NODELIST" in environment:
        return queue.node_names(environment["SLURM_JOB_NODELIST"])
    train = site.train
    options = [f"--nodes={train.nodes}", f"--ntasks-per-node={train.ranks_per_node}"]
    options += [f"--cpus-per-task={train.cpus}"] if train.cpus else []
    options += [f"--gpus-per-node={train.gpus_per_node}"] if train.gpus_per_node else []
    options += [f"--partition={train.partition or site.partition}"] if train.partition or site.partition else []
    raise InputError(
        f"--site {name}: found no Slurm job around this process; fix: run it in one: "
        f"sbatch {' '.join(options)} --output=doctor.out --wrap 'idxtrain doctor --site {name}'"
    )


@contextmanager
def shared_folder(work: Path) -> Iterator[Path]:
    """Make a folder in the work folder, which all nodes should see; remove it at the end."""
    folder = work / f".doctor-{secrets.token_hex(4)}"
    try:
        folder.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be created ({error.strerror}); fix: give a --work that you may write to"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def ask_nodes(
    site: Site, nodes: Sequence[str], folder: Path, work: Path, environment: Mapping[str, str]
) -> tuple[dict[str, NodeFacts], dict[str, float]]:
    """Return each node's facts, and the seconds by which its clock is ahead of this one's. Nodes may be missing."""
    step = commands.one_task_per_node(len(nodes), "--input=none")
    # The named interface may be missing on this node: each node checks its own.
    variables = {INTERFACE: site.interface} if site.interface else {ADDRESS: network.own_address_among(nodes, None)}
    command = commands.site_command(site, sys.executable, _some_run(work), "deploy.doctor.node", str(folder), *nodes)
    facts: dict[str, NodeFacts] = {}
    ahead: dict[str, float] = {}
    with subprocess.Popen(
        [*step, *command],
        env={**clean_environment(environment), **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=sys.stderr,
        text=True,
    ) as srun:
        timeout = threading.Timer(_NODE_SECONDS, srun.terminate)
        timeout.start()
        try:
            for line in srun.stdout or ():
                now = time.time()
                if line.startswith(CLOCK):
                    host, its_time = line.removeprefix(CLOCK).split()
                    # Each line is delayed on its way: the fastest one gives the best estimate.
                    ahead[host] = max(ahead.get(host, float("-inf")), float(its_time) - now)
                else:
                    one = NodeFacts(**json.loads(line))
                    facts[one.host] = one
        finally:
            timeout.cancel()
    return facts, ahead


def allreduce(
    site: Site, nodes: Sequence[str], job: int, folder: Path, work: Path, environment: Mapping[str, str]
) -> list[float]:
    """Run an allreduce over the ranks of all nodes; return each rank's MB/s. An IdxtrainError names the failed node."""
    file = folder / "allreduce.json"
    command = ("deploy.launcher.allreduce", str(file))
    run_ranks(site, nodes, site.train.ranks_per_node, command, job, folder, work, environment)
    return [float(speed) for speed in json.loads(file.read_text(encoding="utf-8"))["by_rank"]]


def run_ranks(
    site: Site,
    nodes: Sequence[str],
    ranks_per_node: int,
    command: Sequence[str],
    job: int,
    folder: Path,
    work: Path,
    environment: Mapping[str, str],
) -> None:
    """Run a module with its arguments as ranks on these nodes, to its end. An IdxtrainError names the failed node."""
    resources = site.train.model_copy(update={"nodes": len(nodes), "ranks_per_node": ranks_per_node})
    everywhere = site.model_copy(update={"train": resources})
    allocation = Allocation(site=everywhere, job=job, nodes=tuple(nodes), folder=folder)
    argv = commands.site_command(everywhere, sys.executable, _some_run(work), *command)
    ranks = allocation.start(argv, everywhere.ranks, clean_environment(environment))
    deadline = time.monotonic() + _RANKS_SECONDS
    try:
        while None in (codes := ranks.poll()):
            failed = [rank for rank, code in enumerate(codes) if code]
            if failed or time.monotonic() > deadline:
                break
            time.sleep(_POLL_SECONDS)
        failed = [rank for rank, code in enumerate(codes) if code]
        if failed:
            first = min(failed, key=ranks.ended_at)
            raise IdxtrainError(f"{ranks.host(first)}: {ranks.last_line(first) or f'exit code {codes[first]}'}")
        if None in codes:
            raise IdxtrainError(f"{ranks.host(codes.index(None))}: did not end in {_RANKS_SECONDS:g} s")
    finally:
        ranks.kill()


def _some_run(work: Path) -> Path:
    """Return a path from which `commands.site_command` derives the work folder that it binds into a container."""
    return Work(work).runs / "doctor"
