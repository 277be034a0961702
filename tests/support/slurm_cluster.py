"""A real Slurm of two nodes on this machine, for tests: munged, slurmctld and two slurmd, in their own folder.

`SlurmCluster(folder)` is a context manager; its `environment` makes Slurm's commands use it. Both nodes, n1 and n2, are
this host: they share its files and its loopback interface.
"""

import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

import psutil

from tests.support.slurm_client import SlurmClient

NODES = ("n1", "n2")
CPUS = 4  # of each node, as configured; the machine may have fewer
_PROGRAMS = ("munged", "munge", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "sinfo", "scancel")
_PACKAGES = "apt-get install slurm-wlm munge"
_SECONDS = 60.0
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"

# See slurm.conf(5). It is small and fast, and does without what a container or a small machine lacks: cgroups,
# accounting, a real CPU for each configured.
SMALL_CONF = """\
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0
DependencyParameters=kill_invalid_depend
SlurmdParameters=config_overrides
"""
# cred_expire bounds how long a requeued job waits (120 s by default). Jobs in `urgent` preempt the others; those in
# `graceful` get SIGTERM first.
_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
TmpFS={folder}/tmp-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ReturnToService=2
JobRequeue=1
KillWait=5
MinJobAge=3600
MaxArraySize=17
SlurmdTimeout=20
NodeName={nodes[0]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[0]} CPUs={cpus} RealMemory=4000
NodeName={nodes[1]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs={cpus} RealMemory=4000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=batch Nodes={nodes[0]},{nodes[1]} Default=YES MaxTime=60 State=UP
PartitionName=graceful Nodes={nodes[0]},{nodes[1]} GraceTime=60 MaxTime=60 State=UP
PartitionName=urgent Nodes={nodes[0]},{nodes[1]} PriorityTier=10 PreemptMode=OFF MaxTime=60 State=UP
"""


def missing() -> str:
    """Return why Slurm cannot be started here; an empty text if it can."""
    if os.geteuid():
        return "found an ordinary user, expected root to start Slurm's daemons"
    lacking = [name for name in _PROGRAMS if shutil.which(name, path=_PATH) is None]
    return f"found no {', '.join(lacking)}; fix: {_PACKAGES}" if lacking else ""


class SlurmCluster(SlurmClient, AbstractContextManager["SlurmCluster"]):
    """Slurm's daemons from enter to exit; they and their jobs leave no process behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Batch scripts run in a login shell: the output of the developer's own profile must stay out of their logs.
        home = folder / "home"
        home.mkdir()
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": _PATH, "HOME": str(home)}
        self._daemons = ExitStack()

    def __enter__(self) -> "SlurmCluster":
        try:
            self._start()
        except BaseException:
            self._daemons.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.run("scancel", "--quiet", "--state=pending")
        self.run("scancel", "--quiet", "--full", "--signal=KILL", "--state=running")
        self._daemons.close()

    def run(self, *command: object, check: bool = False) -> subprocess.CompletedProcess[str]:
        """Run one of Slurm's commands on this cluster."""
        argv = [str(word) for word in command]
        return subprocess.run(argv, env=self.environment, capture_output=True, text=True, timeout=60, check=check)

    def preempt(self, node: str) -> None:
        """Submit a short job to a node whose jobs must make room for it."""
        options = ("--partition=urgent", "--exclusive", f"--nodelist={node}", "--output=/dev/null")
        self.run("sbatch", *options, "--wrap", "sleep 1", check=True)

    def _start(self) -> None:
        for name in ("state", *(f"{what}-{node}" for what in ("spool", "tmp") for node in NODES)):
            (self.folder / name).mkdir(parents=True)
        self.folder.chmod(0o755)  # munge refuses a socket that others cannot reach
        self._start_munge()
        controller, *ports = free_ports(1 + len(NODES))
        conf = _CONF.format(
            folder=self.folder, host=socket.gethostname(), controller=controller, ports=ports, nodes=NODES, cpus=CPUS
        )
        (self.folder / "slurm.conf").write_text(conf + SMALL_CONF, encoding="utf-8")
        self._daemons.enter_context(self._daemon("slurmctld", "-D", "-i"))
        for node in NODES:
            self._daemons.enter_context(self._daemon("slurmd", "-D", "-N", node))
        self.wait_for(self.idle, _SECONDS)

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        names = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        options = [f"--{option}={self.folder}/munge.{suffix}" for option, suffix in names.items()]
        self._daemons.enter_context(self._daemon("munged", "--foreground", "--force", *options))
        self.wait_for((self.folder / "munge.socket").exists, _SECONDS)

    @contextmanager
    def _daemon(self, *command: str) -> Iterator[None]:
        with (self.folder / f"{'-'.join(command[::3])[:40].replace('/', '_')}.out").open("ab") as out:
            process = subprocess.Popen(command, env=self.environment, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
        try:
            yield
        finally:
            children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for child in psutil.wait_procs(children, timeout=2)[1]:
                child.kill()


def free_ports(count: int) -> list[int]:
    """Return N ports that are free on the loopback interface at the moment."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
