"""Prepare when a Spark process is killed or the terminal closes: one line, with nothing left behind."""

import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs.prepare.config import PrepareConfig
from jobs.prepare.spark import _WORKER_GONE
from jobs.run_dir import RunDir, Work
from tests.support.prepared import Made, new_run, start

MANY_SHARDS = PrepareConfig(rows_per_shard=20)  # so that the kill falls between two of them


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 60
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return value


def is_writing(run: RunDir) -> bool:
    return any(run.work.datasets.glob(".tmp-*/train/part-*.parquet"))


def is_nothing_left(work: Work) -> bool:
    return list(work.datasets.iterdir()) == []


def helper(process: "subprocess.Popen[str]", word: str) -> psutil.Process | None:
    for each in reversed(psutil.Process(process.pid).children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # Spark's workers come and go
            if word in " ".join(each.cmdline()[:3]):
                return each
    return None


@pytest.mark.long
@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("bin/java", "prepare: Spark's Java process was killed by SIGKILL"),
        ("pyspark.daemon", "a Python worker crashed or was killed"),
    ],
)
def test_a_killed_spark_process_is_named(small: Made, tmp_path: Path, word: str, message: str) -> None:
    run = new_run(tmp_path, small.archives, MANY_SHARDS)
    with start(run) as process:
        until(lambda: is_writing(run))
        until(lambda: helper(process, word)).kill()
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    (line,) = [line for line in stderr.splitlines() if not line.startswith("prepare: ")]
    assert line.startswith("idxtrain: ")
    assert message in line
    assert line.endswith("; was there enough memory?")
    assert is_nothing_left(run.work)


@pytest.mark.parametrize(
    "words",
    ["SparkException: Python worker exited unexpectedly (crashed)", "java.net.SocketException: Connection reset"],
)
def test_a_killed_python_worker_is_named_whenever_java_notices_it(words: str) -> None:
    assert _WORKER_GONE.search(f"Lost task 2.0 in stage 1.0 (TID 5): {words}")


@pytest.mark.long
@pytest.mark.parametrize("times", [1, 2])  # the kernel reports the end of a parent once per thread
def test_prepare_cleans_up_when_its_terminal_closes(small: Made, tmp_path: Path, times: int) -> None:
    run = new_run(tmp_path, small.archives, MANY_SHARDS)
    with start(run) as process:
        until(lambda: is_writing(run))
        for _ in range(times):
            process.send_signal(signal.SIGHUP)
            time.sleep(0.005)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 75
    lines = [line for line in stderr.splitlines() if not line.startswith("prepare: ")]
    assert lines == [f"idxtrain: prepare: stopped on request; `idxtrain run --run-id {run.selector}` resumes it"]
    assert is_nothing_left(run.work)
