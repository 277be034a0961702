"""Start Spark in the background, run tasks on it, watch it, stop it. The only import of pyspark."""

import logging
import os
import platform
import re
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, suppress
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import urlsplit

from jobs.errors import IdxtrainError, InputError, StoreLostError
from jobs.memory import OutOfMemory
from jobs.prepare.archives import in_threads
from jobs.prepare.config import SparkConfig
from jobs.prepare.spark_home import foreign_variables, own_variables
from jobs.progress import Progress
from jobs.python import SAFE_PATH

T = TypeVar("T")

_POLL_SECONDS = 0.2
_PARTITIONS_PER_CORE = 4
_STANDALONE = "spark://"
_LOCAL = re.compile(r"local(\[([0-9]+|\*)(\s*,\s*[0-9]+)?\])?")  # what Spark itself treats as local
_CONNECT_SECONDS = 3.0
# The errors of a call while Spark stops its context by itself.
_STOPPED = re.compile("masters are unresponsive|stopped SparkContext|SparkContext (has been shutdown|was shut down)")
_JAVA_GONE = "JAVA_GATEWAY_EXITED"
# Spark's messages for a killed worker, by when Java notices it.
_WORKER_GONE = re.compile(r"Python worker exited unexpectedly|SocketException: (Connection reset|Broken pipe)")
_JAVA_END_SECONDS = 0.5
_LOG4J = Path(__file__).with_name("log4j2.properties")


class Spark(AbstractContextManager["Spark"]):
    """A Spark context that starts in the background and stops at the end, together with its Java process."""

    def __init__(self, config: SparkConfig) -> None:
        require_temporary_folder(tempfile.gettempdir())
        require_master(config.master)
        self._config = config
        self._memory = OutOfMemory()
        hush_py4j()
        # The Java runtime takes seconds to start. Meanwhile the caller inflates archives.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="spark-start")
        self._started = self._starter.submit(self._start)

    def _start(self) -> Any:
        for name in list(foreign_variables(os.environ, _is_local(self._config.master))):
            del os.environ[name]
        os.environ.update(own_variables(os.environ))
        from pyspark import SparkConf, SparkContext, accumulators

        # If Java is gone, the default handler prints a traceback beside our one line.
        accumulators.AccumulatorServer.handle_error = _ignore
        properties = spark_properties(self._config)
        # No SparkSession: its SQL engine costs a second of start-up, and nothing here is SQL.
        return SparkContext(conf=SparkConf(loadDefaults=True).setAll(list(properties.items())))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is KeyboardInterrupt:
            _kill_java()
        self._starter.shutdown(wait=True)
        # If the Java process is gone already, stopping Spark and Py4J would only print errors.
        if self._started.exception() is None and _java_end(0.0) is None:
            self._started.result().stop()
        _stop_java()

    def _context(self) -> Any:
        try:
            return self._started.result()
        except Exception as error:
            if self._gave_up(error):
                raise _no_answer(self._config.master, "Spark gave up waiting") from error
            raise self._failure(error, f"Spark did not start on master {self._config.master!r}") from error

    def versions(self) -> dict[str, str]:
        """Return the versions of the software that makes the dataset."""
        import pyarrow

        context = self._context()
        java = str(context._jvm.System.getProperty("java.version"))
        return {
            "python": platform.python_version(),
            "spark": context.version,
            "java": java,
            "pyarrow": pyarrow.__version__,
        }

    def spread(self, function: Callable[[Any], T], tasks: Sequence[Any]) -> list[T]:
        """Return function(task) for each archive of a task, in order: by the executors of a cluster.

        On this machine alone, threads of this process do it while Java starts.
        """
        if _is_local(self._config.master):
            return in_threads(function, tasks)
        return self.collect("prepare: inflating archives", function, tasks)

    def collect(self, what: str, function: Callable[[Any], T], tasks: Sequence[Any]) -> list[T]:
        """Return function(task) for each task, in order."""
        if not tasks:
            return []
        context = self._context()
        try:
            batches = _split(tasks, self._partitions(context, len(tasks)))
            rdd = context.parallelize(batches, len(batches)).flatMap(lambda batch: map(function, batch))
            return self._watch(context, what, len(batches), rdd.collect)
        except Exception as error:
            if self._gave_up(error, context):
                raise _no_answer(self._config.master, "Spark gave up waiting") from error
            raise self._failure(error, f"Spark failed while {what}") from error

    def _failure(self, error: Exception, what: str) -> IdxtrainError:
        """Return the error to raise for Spark's own, which explains little about a killed process."""
        code = _java_end(_JAVA_END_SECONDS)  # its connections break before its exit code is known
        if code is not None and code < 0:
            death = f"was killed by {signal.Signals(-code).name}{self._memory.likely_cause(-code)}"
            return IdxtrainError(f"prepare: Spark's Java process {death}")
        maybe_killed = self._memory.likely_cause(signal.SIGKILL)
        if _JAVA_GONE in str(error):
            return IdxtrainError(f"prepare: Spark's Java process ended before it was up{maybe_killed}")
        if _WORKER_GONE.search(str(error)):
            return IdxtrainError(f"{what}: a Python worker crashed or was killed{maybe_killed}")
        return _readable(error, what)

    def _partitions(self, context: Any, tasks: int) -> int:
        """Return the number of Spark tasks for N tasks of ours: each Spark task costs about 80 ms."""
        if not _is_local(self._config.master):
            # Executors register after the context has started. Until then a cluster of any size reports 2 cores.
            return tasks
        return min(tasks, _PARTITIONS_PER_CORE * int(context.defaultParallelism))

    def _watch(self, context: Any, what: str, spark_tasks: int, action: Callable[[], list[T]]) -> list[T]:
        """Run a Spark action in a thread and show its progress."""
        tracker = context.statusTracker()
        progress = Progress(what, spark_tasks, "Spark tasks")
        with ThreadPoolExecutor(1, thread_name_prefix="spark-action") as pool, progress:
            running = pool.submit(action)
            try:
                while not wait([running], timeout=_POLL_SECONDS).done:
                    stages = [tracker.getStageInfo(stage) for stage in tracker.getActiveStageIds()]
                    progress.update(max((stage.numCompletedTasks for stage in stages if stage), default=0))
            except KeyboardInterrupt:
                _kill_java()  # else the pool would wait for the action to finish
                raise
            return running.result()

    def _gave_up(self, error: Exception, context: Any = None) -> bool:
        """Return whether Spark failed because no master answered, which only its own log states."""
        text = str(error)
        if not self._config.master.startswith(_STANDALONE) or "Master removed our application" in text:
            return False
        return bool(_STOPPED.search(text)) or _is_stopped(context)


def hush_py4j() -> None:
    """Keep Py4J's tracebacks off the terminal, which it logs when a signal interrupts a call.

    It uses the root logger, and Python lets that write to stderr unless it has a handler.
    """
    logging.getLogger().addHandler(logging.NullHandler())


def require_temporary_folder(path: str) -> None:
    """Raise InputError if the folder of temporary files has a comma: Spark would split it into several folders."""
    if "," in path:
        raise InputError(f"TMPDIR: found {path}, expected no comma in the path; fix: export TMPDIR=/tmp")


def require_master(url: str) -> None:
    """Raise InputError if no host of a spark:// URL listens: Spark would try for a minute and explain little."""
    if not url.startswith(_STANDALONE):
        return
    addresses = [_address(url, host) for host in url.removeprefix(_STANDALONE).split(",")]
    with ThreadPoolExecutor(len(addresses)) as pool:
        faults = list(pool.map(_connection_fault, addresses))
    if all(faults):  # of several masters, one leads and the others stand by
        raise _no_answer(url, ", ".join(faults))


def _address(url: str, host: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{host}")
        if parts.hostname and parts.port:
            return parts.hostname, parts.port
    except ValueError:  # a port that is not a number, or an extra bracket
        pass
    raise InputError(
        f"--spark-master {url}: found {host!r}, expected HOST:PORT; fix: give it as in spark://localhost:7077"
    )


def _connection_fault(address: tuple[str, int]) -> str:
    """Return why a TCP connection fails; empty if it works."""
    try:
        with socket.create_connection(address, timeout=_CONNECT_SECONDS):
            return ""
    except (OSError, UnicodeError) as error:  # UnicodeError: a host name that DNS cannot have
        return f"{address[0]}:{address[1]}: {getattr(error, 'strerror', None) or error}"


def _no_answer(url: str, why: str) -> InputError:
    return InputError(
        f"--spark-master: the Spark master at {url} does not answer ({why}); fix: start it, or give the URL in its log"
    )


def _is_stopped(context: Any) -> bool:
    try:
        return context is not None and bool(context._jsc.sc().isStopped())
    except Exception:  # Java itself is gone, which `_failure` reports
        return False


def _ignore(server: Any, request: Any, client_address: Any) -> None:
    """Print nothing: `_failure` reports what happened."""


def _java_end(seconds: float) -> int | None:
    """Wait for the Java process to end; return its exit code, None if it still runs or has not started."""
    from pyspark import SparkContext

    gateway = SparkContext._gateway
    if gateway is None:
        return None
    with suppress(subprocess.TimeoutExpired):
        return int(gateway.proc.wait(seconds))
    return None


def _kill_java() -> None:
    """Kill the Java process, if there is one: Spark's own way to stop takes seconds."""
    from pyspark import SparkContext

    if SparkContext._gateway is not None:
        SparkContext._gateway.proc.kill()


def _is_local(master: str) -> bool:
    return bool(_LOCAL.fullmatch(master))


def _split(tasks: Sequence[Any], count: int) -> list[Sequence[Any]]:
    """Return the tasks in order, as N batches of equal length (± 1)."""
    bounds = [len(tasks) * number // count for number in range(count + 1)]
    return [tasks[begin:end] for begin, end in pairwise(bounds)]


def _stop_java() -> None:
    """End the Java process, which SparkContext.stop() leaves behind, so that the next context starts its own."""
    from pyspark import SparkContext

    gateway, SparkContext._gateway, SparkContext._jvm = SparkContext._gateway, None, None
    if gateway is not None:
        if gateway.proc.poll() is None:
            gateway.shutdown()
        gateway.proc.stdin.close()  # Java ends when its standard input closes
        gateway.proc.wait()


def spark_properties(config: SparkConfig) -> dict[str, str]:
    """Return the Spark properties of the job: https://spark.apache.org/docs/3.5.6/configuration.html.

    Without `spark.local.dir`, which Spark splits at commas: the default is Java's folder of temporary files.
    """
    properties = {
        "spark.master": config.master,
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        # Spark starts its Python workers in a folder that may be the user's.
        **{f"spark.executorEnv.{name}": value for name, value in SAFE_PATH.items()},
        # The Java side only hands out tasks, so the compiler and collector that start fastest are best.
        "spark.driver.extraJavaOptions": " ".join(
            [
                "-XX:TieredStopAtLevel=1",
                "-XX:+UseSerialGC",
                f"-Dlog4j2.configurationFile={_LOG4J.as_uri()}",  # split at commas too
                _quoted(f"-Djava.io.tmpdir={tempfile.gettempdir()}"),  # TMPDIR, which Java ignores
            ]
        ),
    }
    if _is_local(config.properties.get("spark.master", config.master)):
        if config.master == "local":
            properties["spark.master"] = f"local[{len(os.sched_getaffinity(0))}]"
        properties |= {
            # Any user of this machine can connect to the driver, which deserializes what it receives. With this, it
            # answers only clients that know a secret, which Spark generates for each local context.
            "spark.authenticate": "true",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.driver.host": "127.0.0.1",
        }
    return properties | config.properties


def _quoted(option: str) -> str:
    """Return a Java option with quotes as Spark expects them in a list of options."""
    return '"' + option.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _readable(error: Exception, what: str) -> IdxtrainError:
    """Turn Spark's error into one line. Errors of an executor that have exit codes of their own keep them."""
    text = str(error)
    for line in text.splitlines():
        # The traceback of a Python exception in an executor ends with "module.Class: message".
        name, _, message = line.strip().partition(": ")
        if name.endswith(("jobs.errors.InputError", "idx.IdxError")) and message:
            return InputError(message)
        if name.endswith("jobs.errors.StoreLostError") and message:
            return StoreLostError(message)
    return IdxtrainError(f"{what}: {_first_cause(text)}")


def _first_cause(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    # The end of an executor's Python traceback: the first line after its start that is not indented.
    _, start, traceback = text.rpartition("Traceback (most recent call last):\n")
    ends = [line for line in traceback.splitlines() if line[:1].strip()] if start else []
    causes = [line.strip() for line in lines if line.startswith("Caused by:")]
    # Py4J's own first line names the Java call; the second, after a colon, is the Java exception.
    thrown = [line.removeprefix(": ") for line in lines if line.startswith(": ")]
    return next(iter([*ends[:1], *thrown[:1], *causes[-1:], *lines[:1]]), "no reason given")[:400]
