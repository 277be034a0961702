"""`idxtrain doctor --site`: how the nodes' facts are judged, and a run on a real Slurm of two nodes."""

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.doctor import nodes
from deploy.doctor.node import PACKAGES, NodeFacts, facts
from deploy.slurm.site import Site
from jobs.step_speed import StepSpeeds
from tests.conftest import Idxtrain
from tests.support.slurm_cluster import SlurmCluster

NAMES = ("n1", "n2")
ONE = NodeFacts(
    host="n1",
    python="3.11.7",
    versions=dict.fromkeys(PACKAGES, "1.0"),
    gpus=4,
    interface="ib0",
    address="10.0.0.1",
    fault="",
    machine="a",
    missing=(),
)
OTHER = replace(ONE, host="n2", address="10.0.0.2", machine="b")
SITE = Site.model_validate({"train": {"nodes": 2, "ranks_per_node": 2, "gpus_per_node": 4}})
AHEAD = {"n1": 0.0, "n2": 0.01}
SPEEDS = {"n1": 900.0, "n2": 880.0}


def judged(other: NodeFacts | None = OTHER, ahead: float = 0.01, speed: float = 880.0) -> nodes.NodeFinding:
    """Return the second node's row."""
    facts = {"n1": ONE} | ({"n2": other} if other else {})
    first, second = nodes.rows(NAMES, facts, AHEAD | {"n2": ahead}, SPEEDS | {"n2": speed}, SITE)
    assert first.verdict == "ok"
    return second


def test_a_good_node_is_ok() -> None:
    row = judged()
    assert (row.verdict, row.fixes) == ("ok", ())
    assert row.cells == (
        "n2", "3.11.7", *("1.0",) * len(PACKAGES), "4 of 4", "ib0 10.0.0.2", "2 of 2", "+0.01 s", "880 MB/s",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("other", "fix"),
    [
        (None, "its task reported nothing: see the lines above"),
        (
            replace(OTHER, versions={**ONE.versions, "horovod": "none"}),
            "has other versions of horovod than n1: put this environment",
        ),
        (replace(OTHER, python="3.11.2"), "has other versions of python than n1"),
        (
            replace(OTHER, gpus=1),
            "found 1 GPUs, expected 4: request them (gpus_per_node, gpu_type, partition of the site)",
        ),
        (replace(OTHER, fault="interface: found no ib0"), "interface: found no ib0"),
        (replace(OTHER, address="127.0.0.1"), "uses loopback, which other nodes cannot reach"),
        (replace(OTHER, missing=("n1",)), "does not see the files of n1: put --work on a file system all nodes share"),
    ],
)
def test_a_failing_node_has_its_fix_in_its_row(other: NodeFacts | None, fix: str) -> None:
    row = judged(other)
    assert row.verdict == "fails"
    assert row.fixes[0].startswith(fix)
    *_, line = nodes.lines([row])
    assert line.startswith("n2 ")
    assert fix in line


def test_a_wrong_clock_or_a_slow_node_is_a_warning() -> None:
    assert judged(ahead=-3.5).verdict == "warning"
    assert judged(ahead=-3.5).fixes[0].startswith("its clock is off by -3.5 s")
    assert judged(speed=300.0).fixes[0].startswith("less than half the speed of the fastest (900 MB/s)")
    assert judged(replace(OTHER, gpus=0), ahead=9).verdict == "fails"


def test_a_nodes_speed_is_its_slowest_ranks() -> None:
    assert nodes.by_node(NAMES, 2, [9.0, 7.0, 5.0, 6.0]) == {"n1": 7.0, "n2": 5.0}


def test_a_node_whose_file_does_not_appear_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.doctor.node._VISIBLE_SECONDS", 0.0)
    (tmp_path / "n3").write_text("n3", encoding="utf-8")
    environment = {"SLURMD_NODENAME": "n1", "IDXTRAIN_DOCTOR_ADDRESS": "127.0.0.1", "CUDA_VISIBLE_DEVICES": "0,1"}
    node = facts(tmp_path, ("n1", "n2", "n3"), environment)
    assert node.missing == ("n2",)
    assert (node.host, node.interface, node.address, node.gpus) == ("n1", "lo", "127.0.0.1", 2)


def test_outside_a_job_the_error_shows_how_to_start_one(idxtrain: Idxtrain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_NODELIST", raising=False)
    done = idxtrain("doctor", "--site", "perlmutter")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        "idxtrain: --site perlmutter: found no Slurm job around this process; fix: run it in one: sbatch "
    )
    assert "--nodes=2 --ntasks-per-node=4 --cpus-per-task=32 --gpus-per-node=4 --output=doctor.out --wrap " in line


SHOW = "import json, sys; from pipelines.cli.app import main; sys.argv = ['idxtrain', *json.loads(sys.argv[1])]; main()"


def doctor(slurm: SlurmCluster, folder: Path, site: str, *options: str) -> tuple[str, list[str]]:
    """Run it in a job of two nodes; return the job's state and the lines it printed."""
    (folder / "site.toml").write_text(site, encoding="utf-8")
    arguments = json.dumps(["doctor", "--site", str(folder / "site.toml"), "--work", str(folder / "work"), *options])
    out = folder / "doctor.out"
    out.unlink(missing_ok=True)
    options = ("--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1", f"--output={out}")
    command = shlex.join([sys.executable, "-c", SHOW, arguments])
    job = slurm.run("sbatch", "--parsable", *options, "--wrap", command, check=True).stdout.strip()
    slurm.wait_for_end(job)
    return slurm.state(job), out.read_text(encoding="utf-8").splitlines()


@pytest.mark.long
def test_two_good_nodes_are_ok(slurm: SlurmCluster, tmp_path: Path) -> None:
    state, lines = doctor(slurm, tmp_path, "[train]\nnodes = 2\ncpus = 1\n")
    assert state == "COMPLETED", lines
    header, first, second = lines[-3:]
    assert header.split() == " ".join(nodes.HEADER).split()
    for name, line in (("n1", first), ("n2", second)):
        assert line.startswith(f"{name} ")
        assert line.endswith(" ok")
        assert "lo 127.0.0.1 " in line
        assert " 2 of 2 " in line
        assert " MB/s " in line
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.long
def test_a_step_is_measured_on_one_rank_and_on_all_of_a_jobs_nodes(
    slurm: SlurmCluster, tmp_path: Path, idxtrain: Idxtrain
) -> None:
    site = "[train]\nnodes = 2\ncpus = 1\n"
    state, lines = doctor(slurm, tmp_path, site, "--measure", "--recipe", "softmax")
    assert state == "COMPLETED", lines
    (file,) = (tmp_path / "work/speeds").glob("*.site-site.json")
    speeds = StepSpeeds.model_validate_json(file.read_text(encoding="utf-8"))
    assert [(step.ranks, step.rows) for step in speeds.steps] == [(1, 100), (2, 50)]
    assert [line.split()[:2] for line in lines if line.split()[:1] in (["1"], ["2"])] == [["1", "100"], ["2", "50"]]
    options = ("--recipe", "softmax", "--np", "8", "--work", str(tmp_path / "work"))
    assert " of site site (1 CPU thread, float32)" in idxtrain("plan", *options).stdout


def test_nodes_that_lack_the_sites_gpus_or_interface_fail(slurm: SlurmCluster, tmp_path: Path) -> None:
    state, lines = doctor(slurm, tmp_path, "interface = 'ib7'\n[train]\nnodes = 2\ngpus_per_node = 8\n")
    assert state == "FAILED", lines
    assert [line.split()[0] for line in lines[-2:]] == ["n1", "n2"]
    for line in lines[-2:]:
        assert "not run" in line
        assert "  fails  " in line
        assert "found 0 GPUs, expected 8: request them" in line
        assert "found no ib7 with an IPv4 address, expected one of lo" in line


def test_a_fast_network_that_all_nodes_have_and_none_uses_is_a_warning() -> None:
    one, two = (replace(each, interface="eth0", interfaces=("lo", "eth0", "ib0", "ib1")) for each in (ONE, OTHER))

    def warnings(second: NodeFacts, site: Site = SITE) -> tuple[str, ...]:
        first, _ = nodes.rows(NAMES, {"n1": one, "n2": second}, AHEAD, SPEEDS, site)
        return first.fixes

    assert warnings(two) == ('uses eth0, but each node also has ib0: try interface = "ib0" in the site',)
    assert warnings(replace(two, interfaces=("lo", "eth0"))) == ()
    assert warnings(two, SITE.model_copy(update={"interface": "eth0"})) == ()
