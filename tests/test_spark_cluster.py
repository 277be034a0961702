"""A Spark of a job's own, as values: how prepare starts, what a node is told, which properties hold."""

import os
import shlex
import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.slurm import commands, network
from deploy.slurm import site as sites
from deploy.slurm.site import Site
from deploy.spark import daemon, message, node, properties
from deploy.spark.message import Order
from jobs.errors import IdxtrainError, InputError
from jobs.prepare.config import MASTER, SparkConfig
from jobs.prepare.spark import spark_properties

GOLDEN = Path(__file__).parent / "golden" / "spark"
PYTHON = "/home/me/idxtrain/.venv/bin/python"
RUN = Path("/shared/work/runs/digits")
ORDER = Order(("python", "-m", "x"), "c0ffee", "7", "127.0.0.1", "", network.machine(), cores=3, memory="16G")


def site(**values: object) -> Site:
    return sites.validate(values, "--site x")


STANDALONE = site(spark="standalone", prepare={"nodes": 3, "cpus": 8, "memory": "16G"})


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("standalone", STANDALONE),
        ("standalone-container", site(**STANDALONE.model_dump() | {"container": "/images/idxtrain.sif"})),
        ("there-already", site(spark="spark://head:7077")),
        ("local", site()),
    ],
)
def test_golden(name: str, found: Site) -> None:
    how = commands.prepare_launch(found, "local", PYTHON, RUN)
    text = f"# prepare starts so\n{how}\n"
    if found.spark == "standalone":
        step = commands.spark_step(found, found.prepare.nodes)
        text += f"# its master starts under\n{' '.join(commands.spark_step(found, 1))}\n"
        text += f"# its workers start under\n{' '.join(step)}\n"
        command = commands.inside(found, PYTHON, RUN, "deploy.spark.daemon")
        here = node.arguments("worker", ORDER, "10.0.0.2", Path("/scratch/job"), "spark://10.0.0.1:4711")
        text += f"# a worker is\n{' '.join([*command, *here])}\n"
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_a_master_that_is_named_goes_before_the_sites() -> None:
    how = commands.prepare_launch(STANDALONE, "spark://mine:7077", PYTHON, RUN)
    assert how.argv == (PYTHON, "-I", "-m", "jobs.prepare", str(RUN))
    assert how.environment == {}
    told = {MASTER: "spark://site:7077"}
    assert SparkConfig().placed(told).master == "spark://site:7077"
    assert SparkConfig(master="local[3]").placed(told).master == "local[3]"
    assert SparkConfig().placed({}).master == "local"


def test_nodes_that_nothing_would_use_are_refused() -> None:
    with pytest.raises(
        InputError, match=r'prepare\.nodes: found 2 with spark = "local", expected 1; set spark = "stand'
    ):
        site(prepare={"nodes": 2})
    with pytest.raises(InputError, match=r"spark: found 'sparky'"):
        site(spark="sparky")


def test_the_secret_is_in_one_file_that_nobody_else_reads(tmp_path: Path) -> None:
    properties.write(tmp_path, properties.of_driver("c0ffee", "10.0.0.1"))
    (file,) = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    written = dict(line.split(" ", 1) for line in file.read_text(encoding="utf-8").splitlines())
    assert written["spark.authenticate"] == written["spark.network.crypto.enabled"] == "true"
    assert written["spark.authenticate.secret"] == "c0ffee"
    assert written["spark.driver.bindAddress"] == "10.0.0.1"
    environment = properties.daemon_environment(tmp_path)
    options = node.arguments("worker", ORDER, "10.0.0.2", tmp_path, "spark://10.0.0.1:4711")
    # What prepare itself hands to Spark becomes an argv, too.
    own = spark_properties(SparkConfig(master="spark://10.0.0.1:4711"))
    assert "c0ffee" not in f"{environment}{options}{own}"
    assert set(own) & set(written) == set(), "none of them overrides the file"


def test_an_order_is_the_same_after_its_way_through_a_pipe() -> None:
    assert message.take(ORDER.to_line()) == ORDER
    assert ORDER.to_line().count("\n") == 1


@pytest.mark.parametrize(("slurm", "spark"), [("16G", "16g"), ("4000", "4000m"), ("4000M", "4000m"), ("1T", "1t")])
def test_memory(slurm: str, spark: str) -> None:
    assert properties.worker_memory(slurm) == spark


def test_a_node_that_others_cannot_reach_is_told() -> None:
    assert node.address(ORDER) == "127.0.0.1"
    with pytest.raises(IdxtrainError, match=r"loopback interface \(127\.0\.0\.1\), which other nodes cannot reach"):
        node.address(replace(ORDER, machine="another"))
    with pytest.raises(InputError, match="found no ib7 with an IPv4 address"):
        node.address(replace(ORDER, interface="ib7"))


def test_containers_see_the_scratch_beside_what_they_see_now() -> None:
    assert properties.bound(Path("/a"), {}) == {"APPTAINER_BIND": "/a"}
    assert properties.bound(Path("/a"), {"APPTAINER_BIND": "/b,/c"}) == {"APPTAINER_BIND": "/b,/c,/a"}


def test_a_daemon_is_that_of_this_environment() -> None:
    argv, further = daemon.command(["master.Master", "--port", "0"], {"SPARK_DAEMON_JAVA_OPTS": "-XX:+UseSerialGC"})
    assert argv[1:] == ["org.apache.spark.deploy.master.Master", "--port", "0"]
    assert Path(argv[0]).is_relative_to(Path(sys.prefix).resolve())
    assert Path(further["JAVA_HOME"], "bin", "java").exists()
    first, logging = shlex.split(further["SPARK_DAEMON_JAVA_OPTS"])
    assert first == "-XX:+UseSerialGC"
    assert Path(logging.removeprefix("-Dlog4j2.configurationFile=")).exists()
