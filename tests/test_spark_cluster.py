"""A job's own Spark cluster, as values: how prepare starts, the message to a node, the properties."""

import os
import shlex
import stat
import sys
from pathlib import Path

import pytest

from deploy.slurm import commands, network
from deploy.slurm.site import Site, validate
from deploy.spark import daemon, node, properties
from deploy.spark.message import DaemonMessage
from jobs.errors import IdxtrainError, InputError
from jobs.prepare.config import MASTER, SparkConfig
from jobs.prepare.spark import spark_properties

GOLDEN = Path(__file__).parent / "golden" / "spark"
PYTHON = "/home/me/idxtrain/.venv/bin/python"
RUN = Path("/shared/work/runs/digits")
MESSAGE = DaemonMessage(
    command=("python", "-m", "x"),
    secret="c0ffee",  # noqa: S106 (made up)
    job="7",
    address="127.0.0.1",
    interface="",
    machine=network.machine(),
    cores=3,
    memory="16G",
)


def site(**values: object) -> Site:
    return validate(values, "--site x")


STANDALONE = site(spark="standalone", prepare={"nodes": 3, "cpus": 8, "memory": "16G"})


@pytest.mark.parametrize(
    ("name", "example"),
    [
        ("standalone", STANDALONE),
        ("standalone-container", site(**STANDALONE.model_dump() | {"container": "/images/idxtrain.sif"})),
        ("existing-cluster", site(spark="spark://head:7077")),
        ("local", site()),
    ],
)
def test_the_commands_of_prepare_equal_their_golden_file(name: str, example: Site) -> None:
    how = commands.prepare_launch(example, "local", PYTHON, RUN)
    text = f"# the command of prepare\n{how}\n"
    if example.spark == "standalone":
        step = commands.spark_step(example, example.prepare.nodes)
        text += f"# the step of its master\n{' '.join(commands.spark_step(example, 1))}\n"
        text += f"# the step of its workers\n{' '.join(step)}\n"
        command = commands.site_command(example, PYTHON, RUN, "deploy.spark.daemon")
        here = node.arguments("worker", MESSAGE, "10.0.0.2", Path("/scratch/job"), "spark://10.0.0.1:4711")
        text += f"# a worker's command\n{' '.join([*command, *here])}\n"
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_a_configured_spark_master_overrides_the_sites() -> None:
    how = commands.prepare_launch(STANDALONE, "spark://other:7077", PYTHON, RUN)
    assert how.argv == (PYTHON, "-I", "-m", "jobs.prepare", str(RUN))
    assert how.environment == {}
    environment = {MASTER: "spark://site:7077"}
    assert SparkConfig().placed(environment).master == "spark://site:7077"
    assert SparkConfig(master="local[3]").placed(environment).master == "local[3]"
    assert SparkConfig().placed({}).master == "local"


def test_several_prepare_nodes_without_standalone_spark_are_refused() -> None:
    with pytest.raises(
        InputError, match=r'prepare\.nodes: found 2 with spark = "local", expected 1; fix: set spark = "stand'
    ):
        site(prepare={"nodes": 2})
    with pytest.raises(InputError, match=r"spark: found 'sparky'"):
        site(spark="sparky")


def test_the_secret_is_only_in_one_file_of_mode_0600(tmp_path: Path) -> None:
    properties.write(tmp_path, properties.driver_properties("c0ffee", "10.0.0.1"))
    (file,) = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    written = dict(line.split(" ", 1) for line in file.read_text(encoding="utf-8").splitlines())
    assert written["spark.authenticate"] == written["spark.network.crypto.enabled"] == "true"
    assert written["spark.authenticate.secret"] == "c0ffee"
    assert written["spark.driver.bindAddress"] == "10.0.0.1"
    environment = properties.daemon_environment(tmp_path)
    options = node.arguments("worker", MESSAGE, "10.0.0.2", tmp_path, "spark://10.0.0.1:4711")
    # What prepare itself passes to Spark becomes an argv, too.
    own = spark_properties(SparkConfig(master="spark://10.0.0.1:4711"))
    assert "c0ffee" not in f"{environment}{options}{own}"
    assert set(own) & set(written) == set(), "none of them overrides the file"


def test_a_daemon_message_survives_a_pipe() -> None:
    assert DaemonMessage.from_line(MESSAGE.to_line()) == MESSAGE
    assert MESSAGE.to_line().count("\n") == 1


@pytest.mark.parametrize(("slurm", "spark"), [("16G", "16g"), ("4000", "4000m"), ("4000M", "4000m"), ("1T", "1t")])
def test_slurm_memory_is_converted_to_spark_notation(slurm: str, spark: str) -> None:
    assert properties.worker_memory(slurm) == spark


def test_a_node_that_others_cannot_reach_is_refused() -> None:
    here = network.machine()
    assert network.reachable_address("", "127.0.0.1", here) == "127.0.0.1"
    with pytest.raises(
        IdxtrainError, match=r"found loopback \(127\.0\.0\.1\), expected one that other nodes can reach"
    ):
        network.reachable_address("", "127.0.0.1", "another")
    with pytest.raises(InputError, match="found no ib7 with an IPv4 address"):
        network.reachable_address("ib7", "127.0.0.1", here)


def test_containers_see_the_scratch_beside_existing_binds() -> None:
    assert properties.apptainer_bind(Path("/a"), {}) == {"APPTAINER_BIND": "/a"}
    assert properties.apptainer_bind(Path("/a"), {"APPTAINER_BIND": "/b,/c"}) == {"APPTAINER_BIND": "/b,/c,/a"}


def test_a_daemon_runs_this_environments_spark_and_java() -> None:
    argv, added = daemon.command(["master.Master", "--port", "0"], {"SPARK_DAEMON_JAVA_OPTS": "-XX:+UseSerialGC"})
    assert argv[1:] == ["org.apache.spark.deploy.master.Master", "--port", "0"]
    assert Path(argv[0]).is_relative_to(Path(sys.prefix).resolve())
    assert Path(added["JAVA_HOME"], "bin", "java").exists()
    first, logging = shlex.split(added["SPARK_DAEMON_JAVA_OPTS"])
    assert first == "-XX:+UseSerialGC"
    assert Path(logging.removeprefix("-Dlog4j2.configurationFile=")).exists()
