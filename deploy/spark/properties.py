"""Spark's properties, memory and environment for a job's own cluster, as values; and the file that holds them.

https://spark.apache.org/docs/3.5.6/spark-standalone.html and .../security.html. The secret is in that file only:
others on the node or in Slurm's tables may see options and variables.
"""

import os
from collections.abc import Mapping
from pathlib import Path

_FILE = "spark-defaults.conf"  # in the folder that SPARK_CONF_DIR names
_UNITS = {"K": "k", "M": "m", "G": "g", "T": "t"}
_JAVA = "-XX:+UseSerialGC -XX:-UsePerfData"  # the latter: no file in /tmp


def cluster_properties(secret: str) -> dict[str, str]:
    """Return the properties of daemons, driver and executors. No one else can take part or read the traffic."""
    return {
        "spark.authenticate": "true",
        "spark.authenticate.secret": secret,
        "spark.network.crypto.enabled": "true",
        "spark.master.rest.enabled": "false",
        "spark.ui.killEnabled": "false",
    }


def driver_properties(secret: str, address: str) -> dict[str, str]:
    """Return the driver's properties, which it passes to the executors. `address`: where executors reach it."""
    return {
        **cluster_properties(secret),
        "spark.driver.bindAddress": address,
        "spark.driver.host": address,
        "spark.executor.memory": "512m",  # their Java only hands out tasks: Python does the work
        # Their folder of temporary files is the one they run in, inside the worker's scratch.
        "spark.executor.extraJavaOptions": f"{_JAVA} -Djava.io.tmpdir=.",
    }


def daemon_environment(folder: Path) -> dict[str, str]:
    """Return a daemon's environment. `folder`: its scratch, for all files of the daemon and its executors."""
    return {
        "SPARK_CONF_DIR": str(folder),
        "SPARK_LOCAL_DIRS": str(folder),
        "TMPDIR": str(folder),
        "SPARK_LOCAL_IP": "127.0.0.1",  # of its web page, which cannot be switched off: visible on this node only
        "SPARK_DAEMON_MEMORY": "512m",
        "SPARK_DAEMON_JAVA_OPTS": f'{_JAVA} "-Djava.io.tmpdir={folder}"',
        **apptainer_bind(folder),
    }


def apptainer_bind(folder: Path, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variable with which Apptainer shows a folder inside its containers, beside those it shows already."""
    name = "APPTAINER_BIND"
    return {name: ",".join(filter(None, [environment.get(name), str(folder)]))}


def worker_memory(text: str) -> str:
    """Return a site's amount of memory, e.g. 16G, in Spark's notation. Without a unit, Slurm means MB."""
    return text[:-1] + _UNITS[text[-1]] if text[-1] in _UNITS else f"{text}m"


def write(folder: Path, properties: Mapping[str, str]) -> None:
    """Write the properties to a file of mode 0600 in a folder that becomes SPARK_CONF_DIR."""
    text = "".join(f"{name} {value}\n".replace("\\", "\\\\") for name, value in properties.items())
    descriptor = os.open(folder / _FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
