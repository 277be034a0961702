"""Look up all locked packages among the known vulnerabilities: `make audit`.

pip-audit asks the package index. A mirror without advisories answers as if there were no vulnerabilities. So a version
with known vulnerabilities is looked up first.
"""

import argparse
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

KNOWN = "setuptools==69.5.1"  # CVE-2024-6345 and CVE-2025-47273
_ROOT = Path(__file__).parent.parent.parent
_SHOWN = 5
_FIELDS = {"package": str, "version": str, "until": date, "reason": str}


class UnreachableError(Exception):
    """The advisories cannot be reached."""


@dataclass(frozen=True, kw_only=True)
class Exemption:
    """A vulnerability that is accepted in one version of a package, up to a date, for a reason."""

    identity: str
    package: str
    version: str
    until: date
    reason: str


def exemptions(project: Mapping[str, Any]) -> list[Exemption]:
    """Return the exemptions of a pyproject.toml, `[tool.idxtrain.audit]`; raise ValueError for an incomplete one."""
    entries = []
    for identity, values in project["tool"]["idxtrain"]["audit"].items():
        invalid = [key for key, kind in _FIELDS.items() if not isinstance(values.get(key), kind) or not values[key]]
        if invalid or values.keys() - _FIELDS.keys():
            raise ValueError(f"[tool.idxtrain.audit] {identity}: expected {', '.join(_FIELDS)}, found {list(values)}")
        entries.append(Exemption(identity=identity, **values))
    return entries


def outdated(exempted: Sequence[Exemption], lock: Mapping[str, Any], today: date) -> Iterator[str]:
    """Yield the exemptions that have expired: by their date, or because another version is locked."""
    locked = {package["name"]: package.get("version") for package in lock["package"]}
    for each in exempted:
        if locked.get(each.package) != each.version:
            version = locked.get(each.package, "no version")
            yield f"{each.identity}: exempted in {each.package} {each.version}, {version} is locked; review it"
        elif each.until < today:
            yield f"{each.identity}: exempted in {each.package} until {each.until}; review it"


def findings(report: Mapping[str, Any], exempted: Sequence[Exemption]) -> Iterator[str]:
    """Yield each vulnerability in pip-audit's JSON without an exemption, and each package that was not looked up."""
    known = {(each.identity, each.package, each.version) for each in exempted}
    for package in report["dependencies"]:
        if "skip_reason" in package:
            yield f"{package['name']}: was not looked up: {package['skip_reason']}"
        for vulnerability in package.get("vulns", ()):
            names = [vulnerability["id"], *vulnerability.get("aliases", ())]
            if not known & {(name, package["name"], package["version"]) for name in names}:
                fixed = ", ".join(vulnerability.get("fix_versions", ())) or "no version"
                yield f"{package['name']} {package['version']}: {' = '.join(names)}, fixed in {fixed}"


def require_service() -> None:
    """Raise UnreachableError unless the service knows the advisories of an old version."""
    report = look_up([KNOWN])
    if not any(package.get("vulns") for package in report["dependencies"]):
        raise UnreachableError(f"it has no advisories for {KNOWN}")


def look_up(requirements: Sequence[str]) -> dict[str, Any]:
    """Return pip-audit's JSON for exactly these requirements; raise UnreachableError if it returns none."""
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off"]
    command += ["--disable-pip", "--no-deps", "--requirement", "/dev/stdin"]
    done = subprocess.run(command, input="\n".join(requirements) + "\n", capture_output=True, text=True, check=False)
    try:
        report: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise UnreachableError(lines[-1] if lines else f"pip-audit ended with {done.returncode}") from None
    return report


def requirements(lock: Mapping[str, Any]) -> list[str]:
    """Return all packages of a uv.lock except the project itself."""
    return [f"{each['name']}=={each['version']}" for each in lock["package"] if "registry" in each["source"]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the findings and a summary; return 0, 1 for findings, or 3 if the advisories cannot be reached."""
    parser = argparse.ArgumentParser(prog="audit", description=__doc__)
    parser.add_argument("--may-be-away", action="store_true", help="exit with 0 if the advisories cannot be reached")
    may_be_away = parser.parse_args(arguments).may_be_away
    project, lock = (tomllib.loads((_ROOT / name).read_text()) for name in ("pyproject.toml", "uv.lock"))
    exempted = exemptions(project)
    problems = list(outdated(exempted, lock, date.today()))
    try:
        if not problems:
            require_service()
            problems = list(findings(look_up(requirements(lock)), exempted))
    except UnreachableError as error:
        print(f"audit: NOT DONE, the advisory service cannot be reached: {error}")
        return 0 if may_be_away else 3
    for problem in problems:
        print(f"audit: {problem}")
    count = len(requirements(lock))
    print(f"audit: {count} packages, {len(problems)} findings, {len(exempted)} exempted (reasons: pyproject.toml)")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
