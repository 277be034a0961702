"""The Spark, Java and Python that prepare uses: those installed with this Python, whatever the shell has loaded."""

import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

from jobs.prepare.java import find_java_home


def spark_home() -> Path:
    """Return the folder of the Spark that was installed with this Python."""
    spec = find_spec("pyspark")
    return Path((spec and spec.origin) or "pyspark").parent


def own_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables by which Spark's driver finds Spark, Java and Python."""
    return {
        "JAVA_HOME": str(find_java_home(environment)),
        "SPARK_HOME": str(spark_home()),
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
    }


def foreign_variables(environment: Mapping[str, str], local: bool) -> Iterator[str]:
    """Yield the names of a shell's variables that would change our Spark.

    `local`: Spark runs on this machine alone, so every SPARK_* variable is foreign. Otherwise they describe the cluster
    (SPARK_CONF_DIR).
    """
    prefixes = ("PYSPARK_", "SPARK_") if local else ("PYSPARK_",)
    yield from (name for name in environment if name.startswith(prefixes))
