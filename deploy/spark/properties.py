"""Spark's properties, memory and environment for a cluster of a job's own, as values; and the file that holds them.

https://spark.apache.org/docs/3.5.6/spark-standalone.html and .../security.html. The secret is in the file alone: what
is given as an option or a variable, others on the node or in Slurm's tables may see.
"""

import os
from collections.abc import Mapping
from pathlib import Path

_FILE = "spark-defaults.conf"  # in the folder that SPARK_CONF_DIR names
_UNITS = {"K": "k", "M": "m", "G": "g", "T": "t"}
_JAVA = "-XX:+UseSerialGC -XX:-UsePerfData"  # the latter: no file in /tmp


def of_all(secret: str) -> dict[str, str]:
    """Return what holds for daemons, driver and executors: nobody else takes part, and nobody else reads along."""
    return {
        "spark.authenticate": "true",
        "spark.authenticate.secret": secret,
        "spark.network.crypto.enabled": "true",
        "spark.master.rest.enabled": "false",
        "spark.ui.killEnabled": "false",
    }


def of_driver(secret: str, address: str) -> dict[str, str]:
    """Return what the driver takes, and tells the executors. `address`: where it listens, and is reached by them."""
    return {
        **of_all(secret),
        "spark.driver.bindAddress": address,
        "spark.driver.host": address,
        "spark.executor.memory": "512m",  # their Java only hands out tasks: Python does the work
        # Their folder of temporary files is the one they run in, which lies in the worker's scratch.
        "spark.executor.extraJavaOptions": f"{_JAVA} -Djava.io.tmpdir=.",
    }


def daemon_environment(folder: Path) -> dict[str, str]:
    """Return a daemon's environment. `folder`: its scratch, in which all of its files and its executors' lie."""
    return {
        "SPARK_CONF_DIR": str(folder),
        "SPARK_LOCAL_DIRS": str(folder),
        "TMPDIR": str(folder),
        "SPARK_LOCAL_IP": "127.0.0.1",  # its web page, which cannot be switched off, shows itself on this node alone
        "SPARK_DAEMON_MEMORY": "512m",
        "SPARK_DAEMON_JAVA_OPTS": f'{_JAVA} "-Djava.io.tmpdir={folder}"',
        **bound(folder),
    }


def bound(folder: Path, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variable by which Apptainer shows a folder to what runs in a container, beside those it shows now."""
    name = "APPTAINER_BIND"
    return {name: ",".join(filter(None, [environment.get(name), str(folder)]))}


def worker_memory(text: str) -> str:
    """Return a site's amount of memory, e.g. 16G, as Spark has it. Slurm's bare numbers are MB."""
    return text[:-1] + _UNITS[text[-1]] if text[-1] in _UNITS else f"{text}m"


def write(folder: Path, properties: Mapping[str, str]) -> None:
    """Write the file of properties, for nobody else to read, into a folder that becomes SPARK_CONF_DIR."""
    text = "".join(f"{name} {value}\n".replace("\\", "\\\\") for name, value in properties.items())
    descriptor = os.open(folder / _FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
