"""A stage that is asked to stop ends within three seconds, whatever it is doing."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.run_dir import RunDir
from tests.test_stage import PROCESS, run_without_stages


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return run_without_stages(tmp_path)


STUCK = """
    import time
    from concurrent.futures import ThreadPoolExecutor
    with ThreadPoolExecutor(1) as pool:
        pool.submit(time.sleep, 20)
        print("up", file=sys.stderr, flush=True)
        time.sleep(20)
"""


# A library that turns every exception into one of its own.
TURNED = """
    import time
    print("up", file=sys.stderr, flush=True)
    try:
        time.sleep(20)
    except BaseException as error:
        raise ImportError("half loaded") from error
"""


@pytest.mark.parametrize("body", [STUCK, TURNED])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stage_that_is_asked_to_stop_ends_within_three_seconds_whatever_it_does(
    run: RunDir, number: signal.Signals, body: str
) -> None:
    command = [sys.executable, "-c", PROCESS.format(body=body.strip()), str(run.path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr
        assert "up\n" in iter(running.stderr.readline, "")
        time.sleep(0.2)  # else the signal may interrupt the line itself
        running.send_signal(number)
        begin = time.monotonic()
        rest = running.stderr.read()
        code, seconds = running.wait(), time.monotonic() - begin
    assert (code, rest) == (
        75,
        f"idxtrain: demo: stopped on request; `idxtrain run --run-id {run.selector}` resumes it\n",
    )
    assert seconds < 3
