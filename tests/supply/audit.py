"""Look up all locked packages among the known vulnerabilities: `make audit`.

pip-audit asks the package index. An index that knows no advisories, a mirror perhaps, answers like one that knows of
none: so a version with known ones is looked up first.
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


class AwayError(Exception):
    """The advisories cannot be reached."""


@dataclass(frozen=True)
class Exemption:
    """A vulnerability that does not count: in this version of the package, up to a date, for a reason."""

    identity: str
    package: str
    version: str
    until: date
    reason: str


def exemptions(project: Mapping[str, Any]) -> list[Exemption]:
    """Return the exemptions of a pyproject.toml, `[tool.idxtrain.audit]`; raise ValueError where one is not whole."""
    found = []
    for identity, values in project["tool"]["idxtrain"]["audit"].items():
        faults = [key for key, kind in _FIELDS.items() if not isinstance(values.get(key), kind) or not values[key]]
        if faults or values.keys() - _FIELDS.keys():
            raise ValueError(f"[tool.idxtrain.audit] {identity}: expected {', '.join(_FIELDS)}, found {list(values)}")
        found.append(Exemption(identity, **values))
    return found


def outdated(exempted: Sequence[Exemption], lock: Mapping[str, Any], today: date) -> Iterator[str]:
    """Yield what is wrong with exemptions: past their date, or of a version that is no longer locked."""
    locked = {package["name"]: package.get("version") for package in lock["package"]}
    for each in exempted:
        if locked.get(each.package) != each.version:
            there = locked.get(each.package, "no")
            yield f"{each.identity}: exempted in {each.package} {each.version}, {there} is locked; look at it again"
        elif each.until < today:
            yield f"{each.identity}: exempted in {each.package} until {each.until}; look at it again"


def findings(report: Mapping[str, Any], exempted: Sequence[Exemption]) -> Iterator[str]:
    """Yield each vulnerability in pip-audit's JSON that is not exempted, and each package that was not looked up."""
    known = {(each.identity, each.package, each.version) for each in exempted}
    for package in report["dependencies"]:
        if "skip_reason" in package:
            yield f"{package['name']}: was not looked up: {package['skip_reason']}"
        for fault in package.get("vulns", ()):
            names = [fault["id"], *fault.get("aliases", ())]
            if not known & {(name, package["name"], package["version"]) for name in names}:
                fixed = ", ".join(fault.get("fix_versions", ())) or "no version"
                yield f"{package['name']} {package['version']}: {' = '.join(names)}, fixed in {fixed}"


def require_service() -> None:
    """Raise AwayError unless the advisories are there, as those of an old version show."""
    report = look_up([KNOWN])
    if not any(package.get("vulns") for package in report["dependencies"]):
        raise AwayError(f"it knows nothing of {KNOWN}")


def look_up(requirements: Sequence[str]) -> dict[str, Any]:
    """Return pip-audit's JSON on exactly these requirements; raise AwayError where it has none."""
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off"]
    command += ["--disable-pip", "--no-deps", "--requirement", "/dev/stdin"]
    done = subprocess.run(command, input="\n".join(requirements) + "\n", capture_output=True, text=True, check=False)
    try:
        report: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise AwayError(lines[-1] if lines else f"pip-audit ended with {done.returncode}") from None
    return report


def requirements(lock: Mapping[str, Any]) -> list[str]:
    """Return all packages of a uv.lock but the project itself."""
    return [f"{each['name']}=={each['version']}" for each in lock["package"] if "registry" in each["source"]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the outcome, in one line where there is nothing to do; return 0, 1 for findings, 3 where nobody knows."""
    parser = argparse.ArgumentParser(prog="audit", description=__doc__)
    parser.add_argument("--may-be-away", action="store_true", help="end with 0 where no advisories can be reached")
    may_be_away = parser.parse_args(arguments).may_be_away
    project, lock = (tomllib.loads((_ROOT / name).read_text()) for name in ("pyproject.toml", "uv.lock"))
    exempted = exemptions(project)
    faults = list(outdated(exempted, lock, date.today()))
    try:
        if not faults:
            require_service()
            faults = list(findings(look_up(requirements(lock)), exempted))
    except AwayError as error:
        print(f"audit: NOT DONE, the advisory service cannot be reached: {error}")
        return 0 if may_be_away else 3
    for fault in faults:
        print(f"audit: {fault}")
    count = len(requirements(lock))
    print(f"audit: {count} packages, {len(faults)} findings, {len(exempted)} exempted (pyproject.toml says why)")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
