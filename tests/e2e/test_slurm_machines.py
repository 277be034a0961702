"""Trainings of an ordinary user on a Slurm of three machines: whatever disturbs them, they end with the same weights.

They are compared with a training of one process on the login machine that nothing disturbs.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs.run_dir import RunDir
from pipelines.slurm.jobs import SlurmJobs
from tests.conftest import MakeArchives
from tests.support.machines import ROOT, USERS
from tests.support.slurm_machines import LOGIN, NODES, SlurmMachines, missing

STEPS = 150
SETTINGS = {
    "train.deterministic": "true",
    "train.slices": 4,  # of 16 rows; fewer slices are faster
    "train.batch_size": 16,
    "train.max_steps": STEPS,
    "train.log_every": 5,
    "train.checkpoint_every_steps": 10,
    "launch.stall_seconds": 20,
}
OPTIONS = ("--recipe", "lecture", *(f"--set={key}={value}" for key, value in SETTINGS.items()))
SITE = """\
partition = "batch"
scratch = "/tmp"

[train]
nodes = 2
cpus = 1

[prepare]
cpus = 2
"""
DATA = "/home/ada/data"
TEMPORARY = ("/tmp", "/dev/shm")  # noqa: S108 (each machine has its own)


class Workspace:
    """Ada's work folder on the shared /home, and the command line on the login machine."""

    def __init__(self, cluster: SlurmMachines) -> None:
        self.cluster = cluster
        self.runs = cluster.home / "ada/work/runs"

    def __call__(self, *command: object, code: int = 0) -> str:
        """Run idxtrain as ada; return its stdout."""
        done = self.cluster.machines[LOGIN].run(ROOT / ".venv/bin/idxtrain", *command, user="ada", timeout=600)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def submit(self, run_id: str, *options: object) -> dict[str, str]:
        """Submit a run; return the job ID of each stage."""
        out = self("submit", "--site", "two.toml", "--data", DATA, "--run-id", run_id, *OPTIONS, *options)
        return dict(line.split() for line in out.splitlines())

    def weights(self, run_id: str) -> str:
        """Return the checksum of a trained run's weights, which all of its ranks have."""
        record = json.loads(RunDir(self.runs / run_id).record_file("train").read_text())
        (checksum,) = set(record["outputs"]["weights_sha256"])
        return str(checksum)

    def wait_for_checkpoint(self, run_id: str) -> int:
        jobs = SlurmJobs(RunDir(self.runs / run_id))
        self.cluster.wait_for(lambda: jobs.checkpoint_step() > 0, seconds=240)
        return jobs.checkpoint_step()

    def history(self, run_id: str, event: str) -> list[dict[str, Any]]:
        """Return the events of the training's job."""
        entries = SlurmJobs(RunDir(self.runs / run_id)).history()
        return [e for e in entries if (e["event"], e.get("stage")) == (event, "train")]

    def output(self, run_id: str) -> str:
        return "".join(path.read_text() for path in sorted((self.runs / run_id / "slurm").glob("*.out")))

    def left_over(self) -> dict[str, list[str]]:
        """Return what each node has in /tmp that is ada's. Her own training on the login machine has no scratch."""
        command = ("find", *TEMPORARY, "-mindepth", "1", "-user", "ada")
        names = {name: self.cluster.machines[name].run(*command).stdout.split() for name in NODES}
        return {name: found for name, found in names.items() if found}

    def check_trained(self, run_id: str, expected: str) -> None:
        """Wait for a run's training, and check that it has these weights and leaves nothing on the machines."""
        self.cluster.wait_for(lambda: self.has_ended(run_id), seconds=900)
        assert self.is_trained(run_id), self.output(run_id)
        assert self.weights(run_id) == expected
        self("cancel", run_id)  # its evaluation
        self.cluster.wait_for(self.cluster.idle)
        assert self.left_over() == {}

    def has_ended(self, run_id: str) -> bool:
        """Return whether the training's job has ended for good, by the run folder: Slurm forgets it in 5 minutes."""
        ended = SlurmJobs(RunDir(self.runs / run_id)).last("train", "ended")
        return ended.get("code", 75) != 75

    def is_trained(self, run_id: str) -> bool:
        return RunDir(self.runs / run_id).record_file("train").exists()

    def folders(self, job: str) -> set[tuple[str, str]]:
        """Return the private folders that a job has, each with its machine."""
        command = ("find", *TEMPORARY, "-maxdepth", "1", "-name", f"idxtrain-job-{job}-*")
        return {(name, found) for name in NODES for found in self.cluster.machines[name].run(*command).stdout.split()}

    def restarts(self, run_id: str) -> list[int]:
        """Return the steps at which the training's job was started, after the first time."""
        steps = [entry["step"] for entry in self.history(run_id, "started")]
        assert steps[0] == 0
        return steps[1:]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmMachines]:
    """Start the machines. Where the kernel allows none, skip; where packages are missing, with CI=true, fail."""
    why, is_possible = missing()
    if why:
        if is_possible and os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    with SlurmMachines(tmp_path_factory.mktemp("machines")) as machines:
        yield machines


@pytest.fixture(scope="module")
def workspace(cluster: SlurmMachines, make_archives: MakeArchives) -> Workspace:
    home = cluster.home / "ada"
    make_archives(home / "data", (12, 20), 3, train=300, test=50)
    (home / "two.toml").write_text(SITE, encoding="utf-8")
    for path in home.rglob("*"):
        os.chown(path, USERS["ada"], USERS["ada"])
    return Workspace(cluster)


@pytest.fixture(scope="module")
def expected(workspace: Workspace) -> str:
    """Return the weights of one process, on the login machine."""
    workspace("train", "--data", DATA, "--np", 1, "--run-id", "alone", *OPTIONS)
    return workspace.weights("alone")


LONGER = ("--set", "train.max_steps=1200", "--set", "train.checkpoint_every_steps=50")


@pytest.fixture(scope="module")
def expected_longer(workspace: Workspace) -> str:
    """Return the weights of a longer training of one process."""
    workspace("train", "--data", DATA, "--np", 1, "--run-id", "alone-longer", *OPTIONS, *LONGER)
    return workspace.weights("alone-longer")


@pytest.mark.long
def test_a_users_training_on_two_machines_has_the_weights_of_one_process(workspace: Workspace, expected: str) -> None:
    workspace.submit("two")
    workspace.check_trained("two", expected)
    record = json.loads(RunDir(workspace.runs / "two").record_file("train").read_text())
    assert record["outputs"]["world_size"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("is_silent", [False, True])
def test_a_training_survives_the_loss_of_a_machine(workspace: Workspace, expected: str, is_silent: bool) -> None:
    """The job goes back into the queue before Slurm misses the node. `is_silent`: its connections stay open."""
    run_id = f"lost-{is_silent}".lower()
    job = workspace.submit(run_id)["train"]
    workspace.wait_for_checkpoint(run_id)
    begin = time.monotonic()
    workspace.cluster.lose("n2", is_silent)
    try:
        workspace.cluster.wait_for(lambda: workspace.has_ended(run_id) or bool(workspace.history(run_id, "again")), 200)
        assert not workspace.has_ended(run_id), workspace.output(run_id)
        assert "rank 1 on n2 was lost with its node" in workspace.output(run_id)
        assert time.monotonic() - begin < 200  # SlurmdTimeout is 300 s
        assert workspace.cluster.state(job) in ("COMPLETING", "PENDING")
    finally:
        workspace.cluster.bring_back("n2")
    workspace.check_trained(run_id, expected)
    assert workspace.restarts(run_id)[0] > 0


@pytest.mark.slow
def test_a_training_resumes_after_its_time_limit(workspace: Workspace, expected_longer: str) -> None:
    where = ("--site-set", "train.time=00:30:00", "--site-set", "train.warn_seconds=60")
    job = workspace.submit("limited", *LONGER, *where)["train"]
    workspace.wait_for_checkpoint("limited")
    # Slurm looks at limits twice a minute. One to two minutes are left, so it warns within one.
    minutes = int(time.time() - workspace.history("limited", "started")[0]["time"]) // 60 + 2
    workspace.cluster.run("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}", check=True)
    workspace.cluster.wait_for(
        lambda: workspace.has_ended("limited") or len(workspace.history("limited", "started")) > 1, seconds=300
    )
    assert workspace.restarts("limited"), "the training ended before its time limit"
    workspace.cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=60", check=True)
    workspace.check_trained("limited", expected_longer)
    assert workspace.restarts("limited")[0] > 0
    assert "train: requeued, to resume from its checkpoint" in workspace.output("limited")


@pytest.mark.slow
def test_a_preempted_training_resumes(workspace: Workspace, expected: str) -> None:
    workspace.submit("preempted")
    workspace.wait_for_checkpoint("preempted")
    command = (
        "sbatch",
        "--partition=urgent",
        "--exclusive",
        "--nodelist=n2",
        "--output=/dev/null",
        "--wrap",
        "sleep 5",
    )
    assert workspace.cluster.machines[LOGIN].run(*command, user="bob").returncode == 0
    workspace.check_trained("preempted", expected)
    assert workspace.restarts("preempted")[0] > 0


@pytest.mark.slow
def test_a_requeued_training_resumes(workspace: Workspace, expected: str) -> None:
    job = workspace.submit("requeued")["train"]
    workspace.wait_for_checkpoint("requeued")
    workspace.cluster.run("scontrol", "requeue", job, check=True)
    workspace.check_trained("requeued", expected)
    assert workspace.restarts("requeued")[0] > 0


@pytest.mark.slow
def test_a_training_survives_a_restart_of_the_controller(workspace: Workspace, expected: str) -> None:
    workspace.submit("restarted")
    workspace.wait_for_checkpoint("restarted")
    workspace.cluster.stop_controller()
    try:
        shown = workspace("status", "restarted", code=75)
    finally:
        workspace.cluster.start_controller()
    assert " is unknown (job " in shown
    workspace.check_trained("restarted", expected)
    assert workspace.restarts("restarted") == []


@pytest.mark.slow
def test_a_training_that_is_stopped_while_the_controller_is_away_is_requeued(
    workspace: Workspace, expected: str
) -> None:
    workspace.submit("away")
    workspace.wait_for_checkpoint("away")
    workspace.cluster.stop_controller()
    try:
        for name in NODES:
            command = ("pkill", "--signal=USR1", "--full", "pipelines.slurm.job train")
            workspace.cluster.machines[name].run(*command, user="ada")
        workspace.cluster.wait_for(lambda: bool(workspace.history("away", "ended")))
        time.sleep(10)
    finally:
        workspace.cluster.start_controller()
    workspace.check_trained("away", expected)
    assert workspace.restarts("away")[0] > 0


@pytest.mark.slow
def test_a_cancelled_and_a_killed_training_resume_and_leave_nothing(workspace: Workspace, expected: str) -> None:
    workspace.submit("cancelled")
    workspace.wait_for_checkpoint("cancelled")
    workspace("cancel", "cancelled")
    workspace.cluster.wait_for(workspace.cluster.idle)
    assert workspace.left_over() == {}
    job = workspace.submit("cancelled")["train"]
    workspace.cluster.wait_for(lambda: bool(workspace.history("cancelled", "started")))
    step = workspace.history("cancelled", "started")[0]["step"]
    assert step > 0
    jobs = SlurmJobs(RunDir(workspace.runs / "cancelled"))
    workspace.cluster.wait_for(lambda: jobs.checkpoint_step() > step)
    workspace.cluster.run("scancel", "--full", "--signal=KILL", job, check=True)
    workspace.cluster.wait_for(workspace.cluster.idle)
    time.sleep(61)  # a dead owner of the run's lock on another machine is only known by its silence
    workspace.submit("cancelled")
    workspace.check_trained("cancelled", expected)


@pytest.mark.slow
def test_two_jobs_of_one_user_leave_each_others_files_alone(workspace: Workspace, expected_longer: str) -> None:
    job = workspace.submit("first", *LONGER)["train"]
    workspace.wait_for_checkpoint("first")
    folders = workspace.folders(job)
    assert len(folders) == 3  # the launcher's, and one of each rank
    other = workspace.submit("second", "--set", "train.max_steps=1")["train"]
    workspace.cluster.wait_for_end(other)
    assert workspace.cluster.state(other) == "COMPLETED", workspace.output("second")
    assert workspace.cluster.state(job) == "RUNNING", "it ended too early for this test"
    assert workspace.folders(job) == folders
    workspace("cancel", "second")
    workspace.check_trained("first", expected_longer)


@pytest.mark.slow
def test_another_user_on_all_machines_neither_disturbs_nor_learns_anything(workspace: Workspace, expected: str) -> None:
    """Bob floods the port at which ada's ranks meet: other methods, wrong keys, large headers, idle connections."""
    machines, answers = workspace.cluster.machines, workspace.cluster.home / "bob"
    home = Path("/home/bob")  # the same folder, on the machines
    job = workspace.submit("attacked")["train"]
    first = 20000 + int(job) * 13 % 10000  # as deploy/README says, derived from the job ID
    (answers / "neighbour.py").write_text(NEIGHBOUR, encoding="utf-8")
    for name in (LOGIN, *NODES):
        command = (sys.executable, home / "neighbour.py", first, home / f"{name}.json")
        machines[name].start(*command, log=answers / f"{name}.log", user="bob")
    largest = 0
    while not workspace.has_ended("attacked"):
        largest = max(largest, memory_of_launcher())
        time.sleep(0.2)
    (answers / "stop").touch()
    workspace.check_trained("attacked", expected)
    assert workspace.restarts("attacked") == []
    assert "restarting" not in workspace.output("attacked")
    workspace.cluster.wait_for(lambda: len(list(answers.glob("*.json"))) == 3)
    counts = {name: json.loads((answers / f"{name}.json").read_text()) for name in (LOGIN, *NODES)}
    print(f"launcher: {largest / 1e6:.0f} MB; answers: {counts}")
    assert 0 < largest < 150e6
    assert counts["n1"]["403"] > 0, "the port was not found"
    assert set(counts["n1"]) | set(counts["n2"]) <= {"403", "501", "400", "414", "431", "closed", "refused", "idle"}
    assert set(counts[LOGIN]) <= {"closed", "refused", "idle"}, "the login machine is not part of the job"


def memory_of_launcher() -> int:
    """Return the memory of ada's launcher in bytes, 0 if there is none."""
    sizes = [0]
    for process in psutil.process_iter(["cmdline", "memory_info", "uids"]):
        info = process.info
        is_launcher = "deploy.launcher" in (info["cmdline"] or ())
        if is_launcher and info["uids"].real == USERS["ada"]:
            sizes.append(info["memory_info"].rss)
    return max(sizes)


NEIGHBOUR = """
import collections, http.client, json, os, random, socket, sys, threading, time
first, answers = int(sys.argv[1]), sys.argv[2]
stop = os.path.join(os.path.dirname(answers), "stop")
counts, lock, idle = collections.Counter(), threading.Lock(), []
def note(what):
    with lock:
        counts[what] += 1
def attack(number):
    while not os.path.exists(stop):
        port = first + random.randrange(2)
        try:
            if number == 0 and len(idle) < 2000:
                idle.append(socket.create_connection(("n1", port), timeout=1))
                note("idle")
                continue
            connection = http.client.HTTPConnection("n1", port, timeout=2)
            method = random.choice(["GET", "PUT", "HEAD", "DELETE", "POST"])
            key = random.choice(["", "/" + "0" * 32 + ":" + str(port)])
            headers = {"X": "x" * 60000} if number == 1 else {}
            connection.request(method, key + "/global/" + random.choice("01"), b"x" * 136, headers)
            response = connection.getresponse()
            body = response.read()
            note(str(response.status) + (" with a body" if body and response.status in (200, 403) else ""))
        except ConnectionRefusedError:
            note("refused")
            time.sleep(0.02)
        except (OSError, http.client.HTTPException):
            note("closed")
threads = [threading.Thread(target=attack, args=(number,)) for number in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
with open(answers + ".new", "w") as file:
    json.dump(counts, file)
os.rename(answers + ".new", answers)
"""
