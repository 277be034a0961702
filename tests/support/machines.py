"""Several machines on this one, for tests: Linux namespaces, which root makes with unshare(1) and ip(8).

Each machine has its own processes, host name, boot ID, network interface, /tmp, /dev/shm and /run. All share /home, the
users ada and bob, and see the checkout and its Python read-only. A machine ends with its first process, which ends when
this process does: nothing is left behind, whatever fails.
"""

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType

import psutil

ROOT = Path(__file__).parents[2]
USERS = {"root": 0, "ada": 20001, "bob": 20002}
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NAMESPACES = ("--mount", "--net", "--pid", "--uts", "--ipc")
_PROGRAMS = {"unshare": "util-linux", "nsenter": "util-linux", "mount": "mount", "ip": "iproute2", "tc": "iproute2"}
# The first process of a machine. bash, as it reaps the processes that lose their parents. At the end of stdin it exits.
_INIT = """\
set -e
mount -t tmpfs -o mode=755 machine /mnt
keep() { mkdir -p "/mnt$1"; mount --bind "$1" "/mnt$1"; }
show() { mkdir -p "$1"; mount --bind "/mnt$1" "$1"; mount -o remount,bind,ro "$1"; }
mkdir /mnt/.home /mnt/.etc
mount --bind "$FOLDER/home" /mnt/.home
mount --bind "$FOLDER/etc" /mnt/.etc
for each in "$@"; do keep "$each"; done
mount --bind /mnt/.home /home
for each in /tmp /dev/shm; do mount -t tmpfs -o mode=1777 machine "$each"; done
mount -t tmpfs -o mode=755 machine /run
for each in "$@"; do
    top=/$(echo "$each" | cut -d/ -f2)
    mountpoint -q "$top" || mount -t tmpfs -o mode=755 machine "$top"
    show "$each"
done
for each in passwd group hosts; do mount --bind "/mnt/.etc/$each" "/etc/$each"; done
mount --bind "/mnt/.etc/boot_id-$NAME" /proc/sys/kernel/random/boot_id
umount --recursive /mnt
hostname "$NAME"
ip link set lo up
echo ready
read -r _ || exit 0
"""


def missing() -> tuple[str, bool]:
    """Return why there can be no machines here, and whether that could be changed; an empty text if there can be."""
    if os.geteuid():
        return "found an ordinary user, expected root to make namespaces", True
    lacking = [program for program in _PROGRAMS if shutil.which(program, path=PATH) is None]
    if lacking:
        return f"found no {', '.join(lacking)}; fix: apt-get install {' '.join(_PROGRAMS[p] for p in lacking)}", True
    program = "mount -t tmpfs x /mnt && ip link add type bridge && ip link add type veth"
    command = ["unshare", *_NAMESPACES, "--fork", "--mount-proc", "sh", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (f"this kernel or container allows no namespaces ({done.stderr.strip()})" if done.returncode else ""), False


class Machine:
    """A running machine, from `Machines.start`."""

    def __init__(self, name: str, folder: Path, environment: Mapping[str, str]) -> None:
        """Start it, without a network. `folder`: of `Machines`. `environment`: of all commands."""
        self.name, self._environment = name, environment
        (folder / f"etc/boot_id-{name}").write_text(f"{uuid.uuid4()}\n", encoding="ascii")
        command = ["unshare", *_NAMESPACES, "--fork", "--kill-child", "--mount-proc", "bash", "-c", _INIT, "init"]
        self._unshare = subprocess.Popen(
            [*command, *_shown()],
            env={"PATH": PATH, "FOLDER": str(folder), "NAME": name},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if not self._unshare.stdout or self._unshare.stdout.readline() != "ready\n":
            raise OSError(f"{name}: the machine did not start")
        (init,) = psutil.Process(self._unshare.pid).children()
        self.pid = init.pid

    def argv(self, command: Sequence[object], user: str = "root", **environment: str) -> list[str]:
        """Return the argv that runs a command on this machine as a user, in the user's home."""
        home = "/root" if user == "root" else f"/home/{user}"
        own = {"PATH": PATH, "HOME": home, "USER": user, "LANG": "C.UTF-8", **self._environment, **environment}
        words = [f"--setuid={USERS[user]}", f"--setgid={USERS[user]}", "--", "env", "--ignore-environment"]
        words += ["--chdir=/home" if user == "root" else f"--chdir={home}"]
        words += [f"{name}={value}" for name, value in own.items()]
        return ["nsenter", f"--target={self.pid}", *_NAMESPACES, *words, *map(str, command)]

    def run(self, *command: object, user: str = "root", timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, with its output as text."""
        argv = self.argv(command, user)
        return subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False)

    def start(self, *command: object, log: Path, user: str = "root") -> "subprocess.Popen[bytes]":
        """Start a command, which ends with the machine at the latest."""
        with log.open("ab") as out:
            return subprocess.Popen(self.argv(command, user), stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def power_off(self) -> None:
        """End all processes of the machine at once, as a loss of power does."""
        self._unshare.kill()  # --kill-child
        self._unshare.communicate()


class Machines(AbstractContextManager["Machines"]):
    """Machines on one network; the first one started has the bridge. `addresses`: by name. `environment`: of all."""

    def __init__(self, folder: Path, addresses: Mapping[str, str], environment: Mapping[str, str]) -> None:
        self.home, self._folder, self._addresses, self._environment = folder / "home", folder, addresses, environment
        self._running: dict[str, Machine] = {}
        self._ends = ExitStack()
        (folder / "etc").mkdir(parents=True)
        self.home.mkdir(mode=0o755)
        self.home.chmod(0o755)
        for name in ("ada", "bob"):
            (self.home / name).mkdir(mode=0o700)
            os.chown(self.home / name, USERS[name], USERS[name])
        users = "".join(f"{name}:x:{number}:{number}::/home/{name}:/bin/bash\n" for name, number in USERS.items())
        groups = "".join(f"{name}:x:{number}:\n" for name, number in USERS.items())
        hosts = "127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for name, address in addresses.items())
        for file, text in {"passwd": users, "group": groups, "hosts": hosts}.items():
            (folder / "etc" / file).write_text(text, encoding="utf-8")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.close()

    def __getitem__(self, name: str) -> Machine:
        """Return a machine that is running."""
        return self._running[name]

    def start(self, name: str) -> Machine:
        """Start a machine, or start it again, and connect it to the network."""
        machine = Machine(name, self._folder, self._environment)
        self._ends.callback(machine.power_off)
        # As of a real network card, its hardware address stays: the others have it in their caches.
        hardware = f"02:00:00:00:00:{int(self._addresses[name].rpartition('.')[2]):02x}"
        if not self._running:
            _ip(machine, f"link add eth0 address {hardware} type bridge")
        else:
            bridge = next(iter(self._running.values()))
            _ip(bridge, f"link add {name} type veth peer name eth0 address {hardware} netns {machine.pid}")
            _ip(bridge, f"link set {name} master eth0 up")
        _ip(machine, f"address add {self._addresses[name]}/24 dev eth0")
        _ip(machine, "link set eth0 up")
        self._running[name] = machine
        return machine

    def cut_off(self, name: str) -> None:
        """Take a machine off the network: the others hear nothing more of it, not even the end of its connections."""
        _ip(next(iter(self._running.values())), f"link delete {name}")

    def limit(self, name: str, rate: str) -> None:
        """Limit what a machine sends, and receives, to a rate as tc(8) has it."""
        bridge, machine = next(iter(self._running.values())), self._running[name]
        for each, device in ((machine, "eth0"), (bridge, name)):
            _on_network(each, f"tc qdisc replace dev {device} root tbf rate {rate} burst 256kb latency 100ms")


def _ip(machine: Machine, command: str) -> None:
    _on_network(machine, f"ip {command}")


def _on_network(machine: Machine, command: str) -> None:
    """Run ip(8) or tc(8) on a machine's network, with the process IDs of this machine."""
    argv = ["nsenter", f"--target={machine.pid}", "--net", "--", *command.split()]
    subprocess.run(argv, check=True, stderr=subprocess.PIPE, text=True)


def _shown() -> list[str]:
    """Return the folders that a machine shows at the same paths: the checkout, its environment and its Python."""
    folders = sorted({str(ROOT), str(Path(sys.prefix).resolve()), str(Path(sys.base_prefix).resolve())})
    inner = {each for each in folders for other in folders if each.startswith(f"{other}/")}
    return [each for each in folders if each not in inner and not each.startswith("/usr")]
