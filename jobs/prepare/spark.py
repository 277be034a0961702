"""Spark: started in the background, given tasks, watched, stopped. The only pyspark import."""

import os
import platform
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from jobs.errors import IdxtrainError, InputError
from jobs.prepare.config import SparkConfig
from jobs.prepare.java import find_java_home
from jobs.progress import Progress

T = TypeVar("T")

_POLL_SECONDS = 0.2
_LOG4J = Path(__file__).with_name("log4j2.properties")


class Spark(AbstractContextManager["Spark"]):
    """A Spark context that starts in the background and is stopped, its Java process with it, at the end."""

    def __init__(self, config: SparkConfig, scratch: Path) -> None:
        self._config, self._scratch = config, scratch
        # The Java runtime takes seconds to start: meanwhile the caller inflates archives.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="spark-start")
        self._started = self._starter.submit(self._start)

    def _start(self) -> Any:
        os.environ["JAVA_HOME"] = str(find_java_home(os.environ))
        os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
        from pyspark import SparkConf, SparkContext

        properties = spark_properties(self._config, self._scratch)
        # No SparkSession: its SQL engine costs a second of start-up, and nothing here is SQL.
        return SparkContext(conf=SparkConf(loadDefaults=True).setAll(list(properties.items())))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._starter.shutdown(wait=True)
        if self._started.exception() is None:
            self._started.result().stop()
        _stop_java()

    def _context(self) -> Any:
        try:
            return self._started.result()
        except Exception as error:
            raise _readable(error, f"Spark did not start on master {self._config.master!r}") from error

    def versions(self) -> dict[str, str]:
        """Return the versions of what made the dataset."""
        import pyarrow

        context = self._context()
        java = str(context._jvm.System.getProperty("java.version"))
        return {
            "python": platform.python_version(),
            "spark": context.version,
            "java": java,
            "pyarrow": pyarrow.__version__,
        }

    def collect(self, what: str, function: Callable[[Any], T], tasks: Sequence[Any]) -> list[T]:
        """Return function(task) of each task, in order, one Spark task each."""
        context = self._context()
        return self._watch(what, len(tasks), lambda: context.parallelize(tasks, len(tasks)).map(function).collect())

    def _watch(self, what: str, tasks: int, action: Callable[[], T]) -> T:
        """Run a Spark action in a thread and show its progress meanwhile."""
        tracker = self._context().statusTracker()
        with ThreadPoolExecutor(1, thread_name_prefix="spark-action") as pool, Progress(what, tasks, "shards") as shown:
            running = pool.submit(action)
            while not wait([running], timeout=_POLL_SECONDS).done:
                stages = [tracker.getStageInfo(stage) for stage in tracker.getActiveStageIds()]
                shown.update(max((stage.numCompletedTasks for stage in stages if stage), default=0))
            try:
                return running.result()
            except Exception as error:
                raise _readable(error, f"Spark failed while {what}") from error


def _stop_java() -> None:
    """End the Java process, which SparkContext.stop() leaves behind, and let the next context start its own."""
    from pyspark import SparkContext

    gateway, SparkContext._gateway, SparkContext._jvm = SparkContext._gateway, None, None
    if gateway is not None:
        gateway.shutdown()
        gateway.proc.stdin.close()  # it lives as long as its standard input
        gateway.proc.wait()


def spark_properties(config: SparkConfig, scratch: Path) -> dict[str, str]:
    """Return the Spark properties of the job, as values: https://spark.apache.org/docs/3.5.6/configuration.html."""
    properties = {
        "spark.master": config.master,
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        # The Java side only hands out tasks, so the quickest compiler and collector to start are the best ones.
        "spark.driver.extraJavaOptions": " ".join(
            ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", f"-Dlog4j2.configurationFile={_LOG4J}"]
        ),
    }
    if config.master == "local" or config.master.startswith("local["):
        if config.master == "local":
            properties["spark.master"] = f"local[{len(os.sched_getaffinity(0))}]"
        properties |= {
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.driver.host": "127.0.0.1",
            "spark.local.dir": str(scratch),
        }
    return properties | config.properties


def _readable(error: Exception, what: str) -> IdxtrainError:
    """Turn what Spark raised into one line; bad input that an executor found stays bad input."""
    text = str(error)
    for line in text.splitlines():
        # A Python exception of an executor ends its traceback with "module.Class: message".
        name, _, message = line.strip().partition(": ")
        if name.endswith(("jobs.errors.InputError", "idx.IdxError")) and message:
            return InputError(message)
    return IdxtrainError(f"{what}: {_first_cause(text)}")


def _first_cause(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    # The end of an executor's Python traceback: the first line behind its start that is not indented.
    _, start, traceback = text.rpartition("Traceback (most recent call last):\n")
    ends = [line for line in traceback.splitlines() if line[:1].strip()] if start else []
    causes = [line.strip() for line in lines if line.startswith("Caused by:")]
    # Py4J's own first line names the Java call; the second, after a colon, is the Java exception.
    thrown = [line.removeprefix(": ") for line in lines if line.startswith(": ")]
    return next(iter([*ends[:1], *thrown[:1], *causes[-1:], *lines[:1]]), "no reason given")[:400]
