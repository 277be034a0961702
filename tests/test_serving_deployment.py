"""The systemd unit and the Kubernetes manifests of `idxtrain serve`: valid, with commands that the program accepts."""

import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.serving.guard import OPEN_PATHS
from deploy.serving.token import VARIABLE
from tests.conftest import Idxtrain

ROOT = Path(__file__).parent.parent
UNIT = ROOT / "deploy" / "serving" / "idxtrain-serve.service"


@pytest.fixture(scope="module")
def documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / "deploy/kubernetes/serve.yaml").read_text(encoding="utf-8")))


def refused_for_its_work_folder(idxtrain: Idxtrain, words: Sequence[str], tmp_path: Path, token: str) -> None:
    """Run a command whose only fault here is the work folder."""
    words = [str(tmp_path / "work") if word == "/work" else word for word in words]
    done = idxtrain(*words, env={"PATH": "/usr/bin:/bin", VARIABLE: token})
    assert done.returncode == 2
    assert "found no such folder, expected a work folder" in done.stderr


def test_the_unit_runs_a_valid_command(idxtrain: Idxtrain, tmp_path: Path) -> None:
    (line,) = (line for line in UNIT.read_text(encoding="utf-8").splitlines() if line.startswith("ExecStart="))
    program, *words = shlex.split(line.partition("=")[2])
    assert program.endswith("/.venv/bin/idxtrain")
    refused_for_its_work_folder(idxtrain, words, tmp_path, "0123456789abcdef-of-a-test")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze, of Debian's systemd")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text(encoding="utf-8").replace("%h/idxtrain/.venv/bin/idxtrain", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_deployment_runs_a_valid_command(
    documents: list[dict[str, Any]], idxtrain: Idxtrain, tmp_path: Path
) -> None:
    (container,) = documents[0]["spec"]["template"]["spec"]["containers"]
    words = [*container["command"], *container["args"]]
    assert all(isinstance(word, str) for word in words), "Kubernetes refuses numbers"
    assert words[0] == "idxtrain"
    refused_for_its_work_folder(idxtrain, words[1:], tmp_path, "0123456789abcdef-of-a-test")
    (token,) = (each for each in container["env"] if each["name"] == VARIABLE)
    assert set(token["valueFrom"]) == {"secretKeyRef"}


def test_the_service_and_the_probes_reach_the_container(documents: list[dict[str, Any]]) -> None:
    deployment, service = documents
    template = deployment["spec"]["template"]
    (container,) = template["spec"]["containers"]
    (port,) = container["ports"]
    assert str(port["containerPort"]) == container["command"][container["command"].index("--port") + 1]
    labels = template["metadata"]["labels"]
    assert labels == deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"]
    assert [each["targetPort"] for each in service["spec"]["ports"]] == [port["name"]]
    paths = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert paths == {"startup": "/ready", "readiness": "/ready", "liveness": "/health"}
    assert set(paths.values()) <= OPEN_PATHS
    mounted = {each["name"] for each in container["volumeMounts"]}
    assert mounted == {each["name"] for each in template["spec"]["volumes"]}


def test_the_pod_outlives_the_drain_and_has_no_privileges(documents: list[dict[str, Any]]) -> None:
    pod = documents[0]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["terminationGracePeriodSeconds"] > float(container["args"][container["args"].index("--drain") + 1]) + 30
    assert pod["securityContext"]["runAsNonRoot"]
    assert not pod["automountServiceAccountToken"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
