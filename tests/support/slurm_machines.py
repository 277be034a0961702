"""A real Slurm of three machines, for tests: login, n1 and n2, with the users ada and bob, and Slurm's own time-outs.

The machines are those of `tests.support.machines`. Where that is enough, `SlurmCluster` starts sooner.
"""

import secrets
import shutil
import subprocess
import time
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

import psutil

from tests.support import machines
from tests.support.machines import PATH, Machines
from tests.support.slurm_client import SlurmClient
from tests.support.slurm_cluster import SMALL_CONF

LOGIN, NODES = "login", ("n1", "n2")
_ADDRESSES = {"login": "10.77.0.1", "n1": "10.77.0.2", "n2": "10.77.0.3"}
_PROGRAMS = ("munged", "slurmctld", "slurmd")
_SECONDS = 60.0
# See slurm.conf(5). Time-outs are Slurm's defaults, such as SlurmdTimeout=300. Only cred_expire is not (120 s): a
# requeued job would just wait that long. Jobs in `urgent` preempt those in `batch`.
_CONF = """\
ClusterName=three
SlurmctldHost=login
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=/run/munge.socket,cred_expire=5
CryptoType=crypto/munge
StateSaveLocation=/home/slurm/state
SlurmdSpoolDir=/run/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile=/home/slurm/slurmctld.log
SlurmdLogFile=/home/slurm/slurmd-%n.log
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n[1-2] CPUs=4 RealMemory=4000
PartitionName=batch Nodes=n[1-2] Default=YES MaxTime=60 PriorityTier=1 State=UP
PartitionName=urgent Nodes=n[1-2] MaxTime=60 PriorityTier=10 PreemptMode=OFF State=UP
"""


def missing() -> tuple[str, bool]:
    """Return why this Slurm cannot be started here, and whether that could be changed; an empty text if it can be."""
    lacking = [name for name in _PROGRAMS if shutil.which(name, path=PATH) is None]
    if lacking:
        return f"found no {', '.join(lacking)}; fix: apt-get install slurm-wlm munge", True
    return machines.missing()


class SlurmMachines(SlurmClient, AbstractContextManager["SlurmMachines"]):
    """Three machines with Slurm's daemons, from enter to exit; nothing of them or their jobs is left."""

    def __init__(self, folder: Path) -> None:
        self.machines = Machines(folder, _ADDRESSES, {"SLURM_CONF": "/home/slurm/slurm.conf"})
        self.home = self.machines.home
        self._controller: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "SlurmMachines":
        try:
            self._start()
        except BaseException:
            self.machines.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.machines.__exit__(kind, error, trace)

    def run(self, *command: object, check: bool = False) -> subprocess.CompletedProcess[str]:
        """Run one of Slurm's commands as root on the login machine."""
        done = self.machines[LOGIN].run(*command)
        if check:
            done.check_returncode()
        return done

    def lose(self, node: str, is_silent: bool = False) -> None:
        """Power a node off. `is_silent`: after it was cut off, so that its connections do not even end."""
        if is_silent:
            self.machines.cut_off(node)
        self.machines[node].power_off()

    def bring_back(self, node: str) -> None:
        """Start a node that was powered off."""
        self.machines.start(node)
        self._start_node(node)

    def stop_controller(self) -> None:
        """End slurmctld."""
        assert self._controller is not None
        (slurmctld,) = psutil.Process(self._controller.pid).children()
        slurmctld.terminate()
        self._controller.wait(30)

    def start_controller(self) -> None:
        """Start slurmctld, with the state that it saved."""
        self._controller = self.machines[LOGIN].start("slurmctld", "-D", log=self._log("controller"))

    def _start(self) -> None:
        folder = self.home / "slurm"
        folder.mkdir(mode=0o755)
        (folder / "state").mkdir(mode=0o700)
        (folder / "slurm.conf").write_text(_CONF + SMALL_CONF, encoding="utf-8")
        (folder / "munge.key").write_bytes(secrets.token_bytes(1024))
        (folder / "munge.key").chmod(0o400)
        self.machines.start(LOGIN)
        self._start_munge(LOGIN)
        self.start_controller()
        for node in NODES:
            self.machines.start(node)
            self._start_node(node)
        self.wait_for(self.idle, _SECONDS)

    def _start_node(self, node: str) -> None:
        self._start_munge(node)
        self.machines[node].start("slurmd", "-D", "-N", node, log=self._log(node))

    def _start_munge(self, name: str) -> None:
        files = {"socket": "/run/munge.socket", "key-file": "/home/slurm/munge.key"}
        files |= {f"{what}-file": f"/run/munge.{what}" for what in ("pid", "log", "seed")}
        options = [f"--{option}={path}" for option, path in files.items()]
        machine = self.machines[name]
        machine.start("munged", "--foreground", "--force", *options, log=self._log("munge"))
        deadline = time.monotonic() + _SECONDS
        while machine.run("test", "-S", files["socket"]).returncode:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{name}: munged did not start")
            time.sleep(0.05)

    def _log(self, name: str) -> Path:
        return self.home / "slurm" / f"{name}.out"
