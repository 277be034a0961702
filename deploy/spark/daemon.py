"""python -m deploy.spark.daemon CLASS ARGUMENT…: run a Spark daemon, e.g. worker.Worker, in place of this process.

It runs where the stages run, which may be a container: Spark and Java are those of this environment. The daemon ends
with the process that started this one.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from jobs.exit_codes import exit_codes
from jobs.prepare.java import find_java_home
from jobs.prepare.spark_home import spark_home
from jobs.process import die_with_parent
from jobs.umask import keep_others_from_writing

_LOGGING = Path(__file__).with_name("log4j2.properties")
_OPTIONS = "SPARK_DAEMON_JAVA_OPTS"


def command(arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Return the daemon's argv and the variables it adds to the environment; raise InputError if no Java fits."""
    home = spark_home()
    name, *options = arguments
    argv = [str(home / "bin" / "spark-class"), f"org.apache.spark.deploy.{name}", *options]
    logging = f'{environment.get(_OPTIONS, "")} "-Dlog4j2.configurationFile={_LOGGING}"'
    return argv, {"SPARK_HOME": str(home), "JAVA_HOME": str(find_java_home(environment)), _OPTIONS: logging}


if __name__ == "__main__":
    with exit_codes():
        keep_others_from_writing()
        argv, added = command(sys.argv[1:], os.environ)
        die_with_parent()  # also holds for the program that replaces this one
        os.execve(argv[0], argv, {**os.environ, **added})  # noqa: S606
