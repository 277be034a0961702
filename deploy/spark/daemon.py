"""python -m deploy.spark.daemon CLASS ARGUMENT…: become a daemon of Spark, e.g. worker.Worker.

Only where the stages run, which may be a container: Spark and its Java are those of this very environment. The daemon
ends with the process that started this one.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from jobs.prepare.java import find_java_home
from jobs.prepare.spark_home import spark_home
from jobs.process import die_with_parent
from jobs.umask import keep_others_from_writing

_LOGGING = Path(__file__).with_name("log4j2.properties")
_OPTIONS = "SPARK_DAEMON_JAVA_OPTS"


def command(arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Return the daemon's argv and what it adds to the environment."""
    home = spark_home()
    name, *options = arguments
    argv = [str(home / "bin" / "spark-class"), f"org.apache.spark.deploy.{name}", *options]
    logging = f'{environment.get(_OPTIONS, "")} "-Dlog4j2.configurationFile={_LOGGING}"'
    return argv, {"SPARK_HOME": str(home), "JAVA_HOME": str(find_java_home(environment)), _OPTIONS: logging}


if __name__ == "__main__":
    keep_others_from_writing()
    argv, further = command(sys.argv[1:], os.environ)
    die_with_parent()  # holds for what this process becomes, too
    os.execve(argv[0], argv, {**os.environ, **further})  # noqa: S606
