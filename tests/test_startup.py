"""The program before and after its work: Ctrl-C at any moment, closed streams, a closed pipe."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from jobs.errors import ResumableError
from pipelines import recipes
from pipelines.cli.errors import reported
from pipelines.cli.startup import INTERRUPTED
from tests.conftest import MakeArchives

PROGRAM = str(Path(sys.executable).with_name("idxtrain"))


def with_default_sigint() -> None:
    """Restore the default action of SIGINT, which a shell ignores for background jobs such as this test run."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def error_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("idxtrain: ")]


@pytest.mark.parametrize("module", ["typing_extensions", "typer", "pipelines.cli.options"])
def test_ctrl_c_during_imports_prints_one_line(module: str, tmp_path: Path, make_archives: MakeArchives) -> None:
    """Python prints each import as it finishes, so the moment of the signal is known."""
    make_archives(tmp_path / "data", (6, 8), 2, train=60, test=12)
    options = ["--data", str(tmp_path / "data"), "--work", str(tmp_path / "work")]
    command = [sys.executable, "-X", "importtime", "-m", "pipelines.cli", "fetch", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=with_default_sigint) as program:
        assert program.stderr
        output = []
        for line in program.stderr:
            output.append(line)
            if re.search(rf"\| *{re.escape(module)}$", line.rstrip()):
                program.send_signal(signal.SIGINT)
    assert program.returncode == ResumableError.exit_code == INTERRUPTED
    assert error_lines("".join(output)) == ["idxtrain: interrupted"]
    assert "Traceback" not in "".join(output)


def test_ctrl_c_while_a_stage_starts_prints_one_line(tmp_path: Path, make_archives: MakeArchives) -> None:
    make_archives(tmp_path / "data", (6, 8), 2, train=60, test=12)
    command = [PROGRAM, "fetch", "--data", str(tmp_path / "data"), "--work", str(tmp_path / "work")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=with_default_sigint) as program:
        while not psutil.Process(program.pid).children():
            time.sleep(0.001)
            assert program.poll() is None
        program.send_signal(signal.SIGINT)
        _, output = program.communicate()
    assert program.returncode == ResumableError.exit_code, output
    assert len(error_lines(output)) == 1, output
    assert "Traceback" not in output


def test_ctrl_c_during_a_call_to_spark_shows_no_traceback() -> None:
    code = """
from jobs.prepare.spark import hush_py4j
from py4j.java_gateway import GatewayClient
class Interrupted:
    socket = None
    def send_command(self, command):
        raise KeyboardInterrupt
    def close(self, reset):
        pass
hush_py4j()
client = GatewayClient()
client._get_connection = Interrupted
try:
    client.send_command("x")
except KeyboardInterrupt:
    print("passed on")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("passed on\n", "")


def shell(line: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run a line of sh in which $1 is the program, $2 … the words."""
    command = ["bash", "-c", line, "bash", PROGRAM, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", ["recipes", "recipes show fast", "--help"])
def test_a_closed_pipe_ends_the_program_silently_by_sigpipe(words: str, unbuffered: str) -> None:
    done = shell(f'PYTHONUNBUFFERED={unbuffered} "$1" {words} | true; exit "${{PIPESTATUS[0]}}"')
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(("to", "why"), [(">&-", "Bad file descriptor"), (">/dev/full", "No space left on device")])
def test_a_result_that_cannot_be_written_is_an_error(to: str, why: str, unbuffered: str) -> None:
    done = shell(f'PYTHONUNBUFFERED={unbuffered} "$1" recipes {to}')
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"idxtrain: stdout: cannot be written ({why}), so the result is lost\n"


def test_with_stderr_closed_stdout_holds_only_the_result(tmp_path: Path, make_archives: MakeArchives) -> None:
    assert len(shell('"$1" recipes 2>&-').stdout.splitlines()) == 2 * len(recipes.names())
    refused = shell('"$1" recipes show nope 2>&-')
    assert (refused.returncode, refused.stdout) == (2, "")
    make_archives(tmp_path / "data", (6, 8), 2, train=60, test=12)
    done = shell('exec "$1" fetch --data "$2" --work "$3" <&- 2>&-', tmp_path / "data", tmp_path / "work")
    assert (done.returncode, done.stdout) == (0, "")


def test_child_processes_get_open_streams_where_the_program_had_closed_ones(tmp_path: Path) -> None:
    code = "import sys; from pipelines.cli import startup; startup.hold_streams(); import subprocess as s;"
    code += "s.run([sys.executable, '-c', 'import os, sys; os.fstat(0), os.fstat(1), os.fstat(2)'], check=True)"
    done = subprocess.run(["bash", "-c", 'exec "$0" -c "$1" <&- >&- 2>&-', sys.executable, code], check=False)
    assert done.returncode == 0


def test_pythonpath_is_ignored(tmp_path: Path) -> None:
    for name in ("models", "random", "typer"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not ours')", encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([PROGRAM, "run", "--dry-run"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 4


def test_a_stop_request_that_a_library_swallows_is_reported_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with reported(), suppress(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(10)
    assert capsys.readouterr().err == "idxtrain: asked to stop, but the command had finished\n"
