"""How our Python processes start: only the environment that they are installed in matters."""

import ast
import os
import subprocess
from pathlib import Path

import pytest

from deploy.doctor import horovod
from jobs.prepare.config import SparkConfig
from jobs.prepare.spark import spark_properties
from jobs.prepare.spark_home import foreign_variables, own_variables
from jobs.python import clean_environment, module_command
from tests.conftest import Idxtrain, MakeArchives
from tests.test_architecture import ROOT, SOURCES

SHELL = {
    "HOME": "/home/me",
    "HOROVOD_CYCLE_TIME": "5",
    "HOROVOD_LOG_LEVEL": "debug",
    "NCCL_DEBUG": "INFO",
    "PMIX_MCA_gds": "hash",
    "OMPI_MCA_btl": "tcp,self",
}


def test_one_module_decides_how_our_python_starts() -> None:
    starting = {
        str(path.relative_to(ROOT))
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value == "-m"
    }
    assert starting == {"jobs/python.py", "pipelines/cli/startup.py"}


def test_modules_are_not_imported_from_the_current_folder_or_pythonpath(tmp_path: Path) -> None:
    for folder in (tmp_path / "here", tmp_path / "there"):
        folder.mkdir()
        for name in ("models", "random", "json"):
            (folder / f"{name}.py").write_text("raise SystemExit('not ours')", encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "there")}
    command = module_command("jobs.fetch")
    done = subprocess.run(command, cwd=tmp_path / "here", env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "idxtrain: usage: python -m jobs.fetch RUN_DIR\n")


@pytest.mark.parametrize(
    "name",
    [
        "HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_RANK", "HOROVOD_CROSS_SIZE", "HOROVOD_HOSTNAME",
        "HOROVOD_CONTROLLER", "HOROVOD_GLOO_RENDEZVOUS_ADDR", "HOROVOD_GLOO_IFACE", "PMIX_RANK", "PMI_RANK",
        "PMIX_SERVER_URI4", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "PYTHONPATH", "PYTHONHOME",
    ],
)  # fmt: skip
def test_rank_variables_of_the_shell_are_removed(name: str) -> None:
    assert clean_environment({**SHELL, name: "3"}) == clean_environment(SHELL)


def test_communication_settings_of_the_user_are_kept() -> None:
    assert clean_environment(SHELL).items() >= SHELL.items()


def test_a_stage_ignores_the_rank_variables_of_the_shell(
    idxtrain: Idxtrain, make_archives: MakeArchives, tmp_path: Path
) -> None:
    make_archives(tmp_path / "data", (6, 8), 2, train=60, test=12)
    environment = {**os.environ, "HOROVOD_RANK": "3", "PMIX_RANK": "3"}
    done = idxtrain("fetch", "--data", "data", "--run-id", "r", env=environment)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "work/runs/r/logs").glob("*.log")] == ["fetch.log"]


def test_the_doctor_ignores_the_rank_variables_of_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def ask_json(argv: object, environment: dict[str, str], seconds: float) -> dict[str, object]:
        asked.update(environment)
        return dict.fromkeys(("gloo", "mpi", "nccl", "gpus", "device", "right", "megabytes_per_second", "milliseconds"))

    monkeypatch.setattr(horovod, "ask_json", ask_json)
    horovod.ask_alone({**SHELL, "HOROVOD_RANK": "1", "HOROVOD_SIZE": "4"})
    assert asked.keys().isdisjoint({"HOROVOD_RANK", "HOROVOD_SIZE"})


@pytest.mark.parametrize(("local", "kept"), [(True, set()), (False, {"SPARK_CONF_DIR", "SPARK_LOCAL_IP"})])
def test_spark_variables_of_the_shell_are_removed(local: bool, kept: set[str]) -> None:
    shell = dict.fromkeys(
        ("SPARK_CONF_DIR", "SPARK_LOCAL_IP", "PYSPARK_SUBMIT_ARGS", "PYSPARK_GATEWAY_PORT", "HADOOP_CONF_DIR"), "x"
    )
    left = shell.keys() - set(foreign_variables(shell, local))
    assert left == kept | {"HADOOP_CONF_DIR"}
    own = own_variables({})
    assert (Path(own["SPARK_HOME"]) / "bin/spark-submit").exists()
    assert Path(own["PYSPARK_PYTHON"]).exists()


def test_spark_workers_import_nothing_from_their_folder() -> None:
    properties = spark_properties(SparkConfig(master="spark://10.0.0.1:4711"))
    assert properties["spark.executorEnv.PYTHONSAFEPATH"] == "1"
