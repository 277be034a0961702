"""Container images and the environment for several GPUs: the Makefile's commands in each; the MPIJob's argv."""

import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.launcher.config import LaunchConfig
from deploy.slurm import commands
from deploy.slurm.site import Site
from tests.conftest import Idxtrain, MakeArchives

ROOT = Path(__file__).parent.parent
CONTAINER, KUBERNETES = ROOT / "deploy" / "container", ROOT / "deploy" / "kubernetes"
HOME = "/opt/idxtrain"
MAKE = {"cpu": "setup", "gpu": "gpu-env"}


def docker_stages() -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Return each stage of the Dockerfile by name: its base image or stage, and its instructions."""
    stages: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    for line in (CONTAINER / "Dockerfile").read_text(encoding="utf-8").splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            origin, _, name = rest.partition(" AS ")
            stages[name] = (origin, [])
        elif line and not line.startswith("#"):
            stages[name][1].append((word, rest))
    return stages


def of_stage(stages: Mapping[str, tuple[str, list[tuple[str, str]]]], name: str, word: str) -> list[str]:
    """Return the arguments of one instruction in a stage, after those in the stages that it is based on."""
    origin, instructions = stages[name]
    before = of_stage(stages, origin, word) if origin in stages else []
    return before + [rest for instruction, rest in instructions if instruction == word]


def origin_of(stages: Mapping[str, tuple[str, list[tuple[str, str]]]], name: str) -> str:
    """Return the image that a stage is finally based on."""
    while name in stages:
        name = stages[name][0]
    return name


def apptainer_stages(kind: str) -> dict[str, dict[str, list[str]]]:
    """Return each stage of a definition file by name: the values of its header, and the lines of its sections."""
    stages: list[dict[str, list[str]]] = []
    section = ""
    for line in (CONTAINER / f"{kind}.def").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(": ")
        if key == "Bootstrap":
            stages.append({key: [value]})
        elif stages and key in ("From", "Stage"):
            stages[-1][key] = [value]
        elif line.startswith("%"):
            section = line
            stages[-1][section] = []
        elif stages and line.strip():
            stages[-1][section].append(line.strip())
    return {stage["Stage"][0]: stage for stage in stages}


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_docker_and_apptainer_images_are_built_by_the_same_commands(kind: str) -> None:
    docker, apptainer = docker_stages(), apptainer_stages(kind)
    build = [line for line in apptainer["build"]["%post"] if line != f"cd {HOME}"]
    assert build == of_stage(docker, f"build-{kind}", "RUN")
    assert apptainer["final"]["%post"] == of_stage(docker, kind, "RUN")
    assert apptainer["build"]["From"] == [origin_of(docker, f"build-{kind}")]
    assert apptainer["final"]["From"] == [origin_of(docker, kind)]
    assert of_stage(docker, f"build-{kind}", "WORKDIR") == [HOME]
    # They copy the same files.
    copied = [word for line in of_stage(docker, f"build-{kind}", "COPY") for word in line.split()[:-1]]
    assert [line.split()[0] for line in apptainer["build"]["%files"]] == [w for w in copied if w[0] not in "-/"]
    (path,) = of_stage(docker, kind, "ENV")
    assert apptainer["final"]["%environment"] == [f"export {path}"]
    if kind == "gpu":
        assert apptainer["cuda"]["From"] == [docker["cuda"][0]]
        (cuda,) = [
            word for line in of_stage(docker, "build-gpu", "COPY") for word in line.split()[1:2] if "cuda" in word
        ]
        assert apptainer["build"]["%files from cuda"] == [f"{cuda} /usr/local/"]


@pytest.mark.parametrize(("kind", "environment"), [("cpu", ".venv"), ("gpu", ".venv-gpu")])
def test_the_images_commands_are_the_makefiles(kind: str, environment: str) -> None:
    (command,) = [line for line in of_stage(docker_stages(), f"build-{kind}", "RUN") if line.startswith("make ")]
    assert command.split()[1] == MAKE[kind]
    assert of_stage(docker_stages(), kind, "ENV") == [f"PATH={HOME}/{environment}/bin:$PATH"]
    variables = re.findall(r'(\w+)=(?:"([^"]*)"|(\S+))', command)
    assert [(name, quoted or plain) for name, quoted, plain in variables] == [
        *([("CUDA_HOME", "/usr/local/cuda-12.5")] if kind == "gpu" else []),
        ("SLIM", "1"),
    ]
    plan = subprocess.run(
        ["make", "-Bn", MAKE[kind], "SLIM=1", "CUDA_HOME=/usr/local/cuda-12.5"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    syncs = [line for line in plan.splitlines() if " sync " in line]
    assert len(syncs) == (2 if kind == "gpu" else 1)
    for line in syncs:
        assert "--no-group dev" in line
        assert ("--extra gpu" in line) == (kind == "gpu")
    assert f" -m deploy.staging.slim {environment}\n" in plan


def test_the_lock_has_the_packages_of_the_gpu_environment() -> None:
    packages = re.findall(r'^name = "(nvidia-[\w-]+)"$', (ROOT / "uv.lock").read_text(encoding="utf-8"), re.MULTILINE)
    assert {"nvidia-nccl-cu12", "nvidia-cudnn-cu12", "nvidia-cuda-runtime-cu12"} <= set(packages)


def manifest(name: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((KUBERNETES / name).read_text(encoding="utf-8"))
    return values


def argv(container: Mapping[str, Any]) -> list[str]:
    words = [*container["command"], *container.get("args", [])]
    assert all(isinstance(word, str) for word in words), "Kubernetes refuses numbers"
    return words


def replicas() -> tuple[dict[str, Any], dict[str, Any], int]:
    """Return the pods of launcher and worker, and the number of workers."""
    spec = manifest("mpijob.yaml")["spec"]
    kinds = spec["mpiReplicaSpecs"]
    assert spec["slotsPerWorker"] == 1
    return kinds["Launcher"]["template"]["spec"], kinds["Worker"]["template"]["spec"], kinds["Worker"]["replicas"]


def test_the_mpijob_starts_ranks_like_the_horovodrun_launcher() -> None:
    job = manifest("mpijob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v2beta1", "MPIJob")
    pod, worker, nodes = replicas()
    site = Site.model_validate({"launcher": "horovodrun", "interface": "eth0", "train": {"nodes": nodes}})
    how = commands.train_launch(site, LaunchConfig(), "python", Path("/work/runs/digits"), nodes, ["a", "b"])
    expected = list(how.argv)
    hosts = expected.index("-H")
    # The operator writes the list of workers.
    expected[hosts : hosts + 2] = ["--hostfile", "/etc/mpi/hostfile"]
    (train,) = pod["containers"]
    assert argv(train) == expected
    (rank,) = worker["containers"]
    assert rank["resources"]["limits"]["nvidia.com/gpu"] == 1
    for spec in (pod, worker, manifest("evaluate.yaml")["spec"]["template"]["spec"]):
        claimed = {volume["name"] for volume in spec["volumes"]}
        for container in (*spec["containers"], *spec.get("initContainers", ())):
            assert {mount["name"] for mount in container["volumeMounts"]} <= claimed


def test_the_mpijobs_other_containers_run_valid_commands(
    idxtrain: Idxtrain, make_archives: MakeArchives, tmp_path: Path
) -> None:
    make_archives(tmp_path / "data", train=60, test=12)

    def run(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        mounts = {"/work": str(tmp_path / "work"), "/data": str(tmp_path / "data")}
        return idxtrain(*(mounts.get(word, word) for word in words[1:]), "--dry-run")

    pod, _, nodes = replicas()
    (prepare,) = pod["initContainers"]
    words = argv(prepare)
    assert words[words.index("--np") + 1] == str(nodes)
    done = run(words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith(" -m jobs.prepare " + str(tmp_path / "work/runs/digits"))
    (evaluate,) = manifest("evaluate.yaml")["spec"]["template"]["spec"]["containers"]
    done = run(argv(evaluate))
    assert done.returncode == 2
    assert "--run-id digits: found no such run" in done.stderr


@pytest.mark.slow
def test_make_gpu_env_builds_a_horovod_with_nccl(tmp_path: Path) -> None:
    """Compiles for some minutes. Needs CUDA's compiler, but no GPU."""
    environment = ROOT / ".venv-gpu"
    done = subprocess.run(["make", "gpu-env"], cwd=ROOT, capture_output=True, text=True)
    if "found no " in done.stdout and "nvcc" in done.stdout:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stderr[-2000:]
    code = "import horovod.tensorflow as hvd; print(hvd.nccl_built() > 0, hvd.gloo_built(), hvd.cuda_built())"
    shown = subprocess.run([environment / "bin/python", "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["True", "True", "True"]
