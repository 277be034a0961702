"""A rank's numbers, network and node, from values; and ranks of a real srun, with programs instead of trainings."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from horovod.runner.common.util.hosts import get_host_assignments, parse_hosts

from deploy.slurm import network, queue, rank_id, task
from deploy.slurm.message import StartMessage
from deploy.slurm.rank_id import RankId
from deploy.slurm.script import SCRATCH
from deploy.slurm.step import StepRanks
from jobs.errors import IdxtrainError, InputError, printable
from jobs.train.compute.devices import CPUS, GPUS, configure, threads_of
from tests.support.slurm_cluster import SlurmCluster


@pytest.mark.parametrize(("nodes", "per_node", "ranks"), [(1, 1, 1), (2, 1, 2), (3, 4, 12), (3, 2, 5), (4, 3, 10)])
def test_rank_numbers_are_those_that_horovod_would_assign(nodes: int, per_node: int, ranks: int) -> None:
    names = [f"n{n}" for n in range(nodes)]
    counts = rank_id.ranks_per_host(names, per_node, ranks)
    slots = ",".join(f"{name}:{count}" for name, count in counts.items())
    expected = get_host_assignments(parse_hosts(slots), ranks)
    tasks = ",".join(map(str, counts.values()))
    ids: list[RankId] = []
    for node, (name, count) in enumerate(counts.items()):
        for local in range(count):
            variables = {"SLURM_NODEID": str(node), "SLURM_LOCALID": str(local), "SLURMD_NODENAME": name}
            variables |= {"SLURM_PROCID": str(len(ids)), "SLURM_STEP_TASKS_PER_NODE": tasks}
            ids.append(RankId.from_slurm(variables))
    assert [vars(each) for each in ids] == [
        {
            "host": slot.hostname,
            "rank": slot.rank,
            "ranks": slot.size,
            "local_rank": slot.local_rank,
            "local_size": slot.local_size,
            "cross_rank": slot.cross_rank,
            "cross_size": slot.cross_size,
        }
        for slot in expected
    ]


def test_tasks_per_node_are_parsed_and_bad_input_is_refused() -> None:
    assert rank_id.tasks_per_node("2(x3),1") == [2, 2, 2, 1]
    with pytest.raises(ValueError, match="expected tasks per node"):
        rank_id.tasks_per_node("two")
    with pytest.raises(ValueError, match="expected room for 5"):
        rank_id.ranks_per_host(["a", "b"], 2, 5)


KNOWN = {"lo": ["127.0.0.1"], "ib0": ["10.1.0.7"], "eth0": ["192.168.3.7"], "down0": []}


def test_addresses_and_interfaces_are_found_and_missing_ones_refused() -> None:
    assert network.interface_of("10.1.0.7", KNOWN) == "ib0"
    assert network.address_of("eth0", KNOWN) == "192.168.3.7"
    assert network.own_address_towards("127.0.0.1") == "127.0.0.1"
    with pytest.raises(InputError, match=r"found no ib1 with an IPv4 address, expected one of lo, ib0, eth0; fix: set"):
        network.address_of("ib1", KNOWN)
    with pytest.raises(
        InputError,
        match=r"interface: found no interface with 10\.9\.9\.9 on this machine, expected it on one of lo, ib0",
    ):
        network.interface_of("10.9.9.9", KNOWN)


@pytest.fixture
def message(tmp_path: Path) -> StartMessage:
    message = StartMessage(
        folder=str(tmp_path),
        token="abc",  # noqa: S106 (no secret)
        ranks=2,
        address="127.0.0.1",
        port=20000,
        interface="",
        machine=network.machine(),
        gpus=0,
        cpus=3,
        key="k",
    )
    message.attempt_file.touch()
    return message


SECOND = RankId(host="n2", rank=1, ranks=2, local_rank=0, local_size=1, cross_rank=1, cross_size=2)


def test_a_start_message_survives_the_environment(message: StartMessage) -> None:
    assert StartMessage.from_environment(message.environment()) == message


def test_a_task_reports_through_its_pipe_and_no_other_line_is_taken_for_a_report(message: StartMessage) -> None:
    line = message.report(1, code=-9, last_line="no space – left")
    assert message.read_report(line) == {"rank": 1, "code": -9, "last_line": "no space – left"}
    assert message.read_report("[rank 1] " + line) is None
    assert message.read_report("srun: error: n2: task 1: Killed") is None
    assert len(message.report(1, code=-15, last_line=printable("\n漢" * 500)[:200]).encode()) < 1000
    for forged in (message.report(7, code=0), line.replace("{", "["), line.partition("{")[0]):
        assert message.read_report(forged) == {}


@pytest.mark.parametrize(
    ("line", "lost"),
    [
        ("srun: error: Node failure on n2", {"n2"}),
        ("srun: error: Task launch for StepId=120.4 failed on node n2: Communication connection failure", {"n2"}),
        ("srun: error: Task launch for StepId=120.4 failed on node n2: Unable to satisfy cpu bind request", set()),
        ("srun: error: Task launch for StepId=120.4 failed on node n2: Invalid job credential", set()),
    ],
)
def test_only_a_node_that_does_not_answer_is_lost(
    line: str, lost: set[str], message: StartMessage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "node_names", lambda listed: [listed])
    ranks = StepRanks(["true"], message, {"n1": 1, "n2": 1}, {}, None)
    ranks._note(line)
    assert {ranks.host(rank) for rank in (0, 1) if ranks.is_lost(rank)} == lost
    ranks.kill()


def test_the_sites_nccl_settings_win(message: StartMessage, monkeypatch: pytest.MonkeyPatch) -> None:
    assert task.rank_environment(message, SECOND, "eth0")["NCCL_SOCKET_IFNAME"] == "eth0"
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "hsn")
    assert task.rank_environment(message, SECOND, "eth0")["NCCL_SOCKET_IFNAME"] == "hsn"


def test_a_rank_of_a_site_with_gpus_never_trains_on_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoGpus:
        class config:  # noqa: N801
            list_physical_devices = staticmethod(lambda kind: ())

        class test:  # noqa: N801
            is_built_with_cuda = staticmethod(lambda: False)

    monkeypatch.setenv(GPUS, "2")
    with pytest.raises(IdxtrainError, match=r"found no GPU in TensorFlow, which is built without CUDA, expected 2 on "):
        configure(NoGpus, 0, 1)


def test_a_suitable_node_passes_and_its_rank_gets_its_environment(message: StartMessage) -> None:
    assert task.check_node(message, SECOND, {}) == "lo"
    # Two Slurm nodes of one machine may talk over its loopback interface; two machines may not.
    environment = task.rank_environment(message, SECOND, "lo")
    assert environment["HOROVOD_HOSTNAME"] == "n2"
    assert environment["HOROVOD_RANK"] == "1"
    assert environment["HOROVOD_GLOO_IFACE"] == "lo"
    assert environment[CPUS] == "3"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"ranks": 3}, "found a step of 2 ranks, expected 3"),
        (
            {"token": "other"},
            "found no .*attempt-other here, expected the launcher's file; fix: put --work on a file system",
        ),
        (
            {"machine": "another"},
            r"found loopback \(127.0.0.1\), expected one that other nodes can reach; fix: set the site",
        ),
        ({"gpus": 4}, "found 0 GPUs for 1 ranks, expected 4"),
        ({"interface": "hsn9"}, "found no hsn9 with an IPv4 address"),
    ],
)
def test_an_unsuitable_node_is_refused(
    message: StartMessage, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], error: str
) -> None:
    monkeypatch.setattr(task, "_VISIBLE_SECONDS", 0.2)
    with pytest.raises(IdxtrainError, match=error):
        task.check_node(replace(message, **change), SECOND, {"CUDA_VISIBLE_DEVICES": ""})  # type: ignore[arg-type]


def test_a_rank_may_see_its_own_gpu_or_all_of_its_node(message: StartMessage) -> None:
    two = replace(SECOND, local_size=2)
    for visible in ("0,1", "1"):
        assert task.check_node(replace(message, gpus=2), two, {"CUDA_VISIBLE_DEVICES": visible}) == "lo"
    with pytest.raises(IdxtrainError, match="found 2 GPUs for 3 ranks"):
        task.check_node(replace(message, gpus=3), replace(SECOND, local_size=3), {"CUDA_VISIBLE_DEVICES": "0,1"})


@pytest.mark.parametrize(
    ("environment", "threads"),
    [
        ({}, 2),
        ({"SLURM_CPU_BIND": "none"}, 2),
        ({"SLURM_CPU_BIND": "quiet,none"}, 2),
        ({"SLURM_CPU_BIND": "quiet,mask_cpu:0x3"}, 8),
        ({"SLURM_CPU_BIND": "cores"}, 8),
        ({CPUS: "3", "SLURM_CPU_BIND": "none"}, 3),
        ({CPUS: "99"}, 8),
    ],
)
def test_a_rank_uses_the_threads_that_the_launcher_reserved(environment: dict[str, str], threads: int) -> None:
    assert threads_of(environment, 8, 1, 4) == threads


class Job:
    """The launcher under `sbatch`, on two nodes of the tests' Slurm; ranks are Python programs."""

    def __init__(self, slurm: SlurmCluster, folder: Path) -> None:
        self.slurm, self.folder = slurm, folder
        self.run, self.out = folder / "work/runs/r", folder / "out"
        self.run.mkdir(parents=True)

    def submit(
        self, program: str, *options: object, sbatch: tuple[str, ...] = (), python: object = sys.executable
    ) -> str:
        """Submit a job whose ranks run a program. `sbatch`: more of its options. `python`: that of the tasks."""
        (self.folder / "rank.py").write_text(
            f"import os, signal, sys, time\nrank = int(os.environ['HOROVOD_RANK'])\n{program}\n", encoding="utf-8"
        )
        # The launcher as `make_launcher` makes it, without the allreduce before the training.
        launcher = (
            "import os, sys\nfrom deploy.launcher.__main__ import parse\n"
            "from deploy.launcher.launcher import Launcher\nfrom deploy.slurm import site, step\n"
            f"module_command = step.module_command\npython = {str(python)!r}\n"
            "step.module_command = lambda *words: module_command(*words, python=python)\n"
            "options = parse(sys.argv[1:])\nfolder = options.run_dir / 'heartbeats'\n"
            "wanted = site.validate({'train': {'nodes': 2, 'ranks_per_node': 2, 'cpus': 1}}, '')\n"
            "start = step.allocation(wanted, folder, os.environ).start\nsys.exit(Launcher(options, start).run())"
        )
        words = [sys.executable, "-c", launcher, "--np", 4, "--max-restarts", 0, "--run-dir", self.run]
        command = [*words, *options, sys.executable, self.folder / "rank.py"]
        script = self.folder / "job.sh"
        quoted = " ".join("'" + str(word).replace("'", "'\\''") + "'" for word in command)
        script.write_text(f"#!/bin/bash\nexec {quoted}\n", encoding="utf-8")
        job = ("--nodes=2", "--ntasks-per-node=2", "--cpus-per-task=1", "--no-requeue", f"--output={self.out}")
        return self.slurm.run("sbatch", "--parsable", *job, *sbatch, script, check=True).stdout.strip()

    def output(self) -> str:
        return self.out.read_text() if self.out.exists() else ""

    def end(self, job: str) -> tuple[int, str]:
        """Wait for the job's end; return its exit code and its output."""
        self.slurm.wait_for_end(job, seconds=120)
        return int(self.slurm.show(job)["ExitCode"].partition(":")[0]), self.out.read_text()


@pytest.fixture
def job(slurm: SlurmCluster, tmp_path: Path) -> Iterator[Job]:
    yield Job(slurm, tmp_path)
    slurm.run("scancel", "--quiet", "--full", "--user=root")
    slurm.wait_for(slurm.idle)


def test_ranks_on_two_nodes_get_their_numbers_and_prefixed_stderr(job: Job) -> None:
    keys = ("HOSTNAME", "SIZE", "LOCAL_RANK", "LOCAL_SIZE", "CROSS_RANK", "CROSS_SIZE")
    names = [f"HOROVOD_{key}" for key in keys]
    code, output = job.end(job.submit(f"print(*(os.environ[n] for n in {names}), file=sys.stderr)"))
    assert code == 0
    assert sorted(output.splitlines()) == [
        "[rank 1] n1 4 1 2 0 2",
        "[rank 2] n2 4 0 2 1 2",
        "[rank 3] n2 4 1 2 1 2",
        "n1 4 0 2 0 2",
    ]


def test_a_failing_rank_is_reported_with_its_node(job: Job) -> None:
    code, output = job.end(job.submit("rank == 3 and sys.exit('no space left')\ntime.sleep(600)"))
    assert code == 1
    errors = [line for line in output.splitlines() if line.startswith("idxtrain: ")]
    assert errors == ["idxtrain: train: rank 3 on n2 exited with code 1; its last line: no space left (last step 0)"]


def test_ranks_restart_after_a_kill_and_the_history_records_the_node(job: Job) -> None:
    flag = job.folder / "died"
    once = f"flag = {str(flag)!r}\nif rank == 2 and not os.path.exists(flag):\n"
    once += "    open(flag, 'w')\n    os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(1)"
    code, output = job.end(job.submit(once, "--max-restarts", 2))
    assert code == 0, output
    assert "idxtrain: train: rank 2 on n2 was killed by SIGKILL" in output
    (entry,) = map(json.loads, (job.run / "logs/restarts.jsonl").read_text().splitlines())
    assert (entry["rank"], entry["host"], entry["what"]) == (2, "n2", "was killed by SIGKILL")


@pytest.mark.long
def test_a_rank_killed_with_its_task_is_reported(job: Job) -> None:
    program = "peer = 71\nif rank == 1: os.kill(os.getppid(), signal.SIGKILL)\ntime.sleep(1)\nsys.exit(peer)"
    code, output = job.end(job.submit(program))
    assert code == 1
    assert "idxtrain: train: rank 1 on n1 was killed by SIGKILL" in output


FALL_SILENT = """\
import psutil
if rank < 2:
    time.sleep(3)
    sys.exit(71)
own = psutil.Process()
slurmstepd = own.parent().parent()
if rank == 3:
    time.sleep(600)
silent = [each for each in (slurmstepd, *slurmstepd.children(recursive=True)) if each != own]
with open({path!r} + ".new", "w") as file:
    print(*(each.pid for each in (*silent, own)), file=file)
os.rename({path!r} + ".new", {path!r})
for each in silent:
    each.suspend()
os.kill(own.pid, signal.SIGSTOP)
"""


@pytest.mark.long
def test_a_node_that_is_lost_sends_the_job_back_into_the_queue(job: Job) -> None:
    """Everything of the job on n2 falls silent, as when its power fails; the ranks on n1 lose their peers."""
    silent = job.folder / "silent"
    number = job.submit(FALL_SILENT.format(path=str(silent)), "--max-restarts", 3)
    try:
        job.slurm.wait_for(lambda: "lost with its node" in job.output() or job.slurm.state(number) == "FAILED")
    finally:
        for pid in silent.read_text(encoding="utf-8").split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    code, output = job.end(number)
    assert code == 75, output
    assert "idxtrain: train: rank 2 on n2 was lost with its node (last step 0)" in output
    assert "restarting" not in output


def test_each_rank_has_temporary_files_of_its_own_on_its_node_which_are_removed(job: Job) -> None:
    scratch, own = job.folder / "scratch", job.folder / "own"
    scratch.mkdir()
    program = "import tempfile\nfolder = tempfile.gettempdir()\n"
    program += "print('in', folder, oct(os.stat(folder).st_mode), file=sys.stderr)"
    exported = f"--export=ALL,{SCRATCH}={scratch},TMPDIR={own}"
    code, output = job.end(job.submit(program, sbatch=(exported,)))
    assert code == 0, output
    folders = [line.split()[-2:] for line in output.splitlines() if str(scratch) in line]
    assert len({folder for folder, _ in folders}) == 4
    assert {mode for _, mode in folders} == {"0o40700"}
    assert list(scratch.iterdir()) == []


def test_tasks_get_their_message_in_a_job_without_exported_variables(job: Job) -> None:
    code, output = job.end(job.submit("print('trained', file=sys.stderr)", sbatch=("--export=NONE",)))
    assert code == 0, output
    assert output.count("trained") == 4


def test_a_rank_whose_task_cannot_start_is_named_with_its_node(job: Job) -> None:
    program = "time.sleep(600)"
    only_on_n1 = job.folder / "python"
    only_on_n1.write_text(
        f'#!/bin/sh\n[ $SLURMD_NODENAME = n1 ] || exit 2\nexec {sys.executable} "$@"\n', encoding="utf-8"
    )
    only_on_n1.chmod(0o755)
    code, output = job.end(job.submit(program, python=only_on_n1))
    assert code == 1, output
    (error,) = [line for line in output.splitlines() if line.startswith("idxtrain: ")]
    assert error.startswith(
        "idxtrain: train: rank 2 on n2 exited with code 1; its last line: srun: error: n2: tasks 2-3: "
    )


def test_a_signal_to_the_job_stops_all_ranks(job: Job) -> None:
    program = f"path = {str(job.folder)!r} + f'/rank-{{rank}}'\n"
    program += "def stop(*_):\n    open(path + '-stopping', 'w')\n    time.sleep(rank / 4)\n    sys.exit(75)\n"
    program += "signal.signal(signal.SIGUSR1, stop)\nopen(path, 'w')\nwhile True: time.sleep(0.1)"
    number = job.submit(program)
    job.slurm.wait_for(lambda: len(list(job.folder.glob("rank-?"))) == 4)
    job.slurm.run("scancel", "--batch", "--signal=USR1", number, check=True)
    code, output = job.end(number)
    assert code == 75, output
    # No rank was killed while it was stopping, which takes rank 3 the longest.
    assert len(list(job.folder.glob("rank-?-stopping"))) == 4
    assert "Exited" not in output


def test_bad_input_is_reported_by_the_rank_only(job: Job) -> None:
    program = "rank or sys.exit(print('idxtrain: x: found y', file=sys.stderr) or 2)\ntime.sleep(600)"
    code, output = job.end(job.submit(program))
    assert code == 2
    assert [line for line in output.splitlines() if not line.startswith(("srun", "slurmstepd"))] == [
        "idxtrain: x: found y"
    ]
