"""One stage as one process: when it is done, when it is not, and how it ends."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs.errors import InputError
from jobs.files import write_json
from jobs.process import PARENT
from jobs.records import OutputFile, PrepareOutputs
from jobs.run_dir import RunDir
from jobs.stage import STAGES, dataset_of, is_done, read_outputs, read_record, stage_key, write_record
from jobs.train.stop import stopped

CONFIG: dict[str, Any] = {"seed": 1} | {name: {"option": 1} for name in (*STAGES, "spark")}


@pytest.fixture
def new(tmp_path: Path) -> RunDir:
    """Return a run without a finished stage."""
    return run_without_stages(tmp_path)


def run_without_stages(work: Path) -> RunDir:
    run = RunDir(work / "runs" / "r1")
    run.path.mkdir(parents=True)
    write_json(run.config_file, CONFIG)
    return run


@pytest.fixture
def run(new: RunDir) -> RunDir:
    """Return a run whose stages have all finished, each with one output file."""
    for stage in STAGES:
        finish(new, stage)
    return new


def output(run: RunDir, stage: str) -> Path:
    return run.path / f"{stage}.out"


def finish(run: RunDir, stage: str, **outputs: Any) -> None:
    path = output(run, stage)
    path.write_text(f"what {stage} made")
    write_record(run, stage, stage_key(run, stage), {"name": stage} | outputs, [path])


def done(run: RunDir) -> list[str]:
    return [stage for stage in STAGES if is_done(run, stage)]


# --- done or not


def test_a_finished_stage_is_done(run: RunDir) -> None:
    assert done(run) == list(STAGES)


def test_a_stage_without_a_record_is_not_done(run: RunDir) -> None:
    run.record_file("evaluate").unlink()
    assert done(run) == ["fetch", "prepare", "train"]


@pytest.mark.parametrize(
    ("change", "still_done"),
    [
        ({"fetch": {"option": 2}}, ["prepare", "train", "evaluate"]),
        ({"prepare": {"option": 2}}, ["fetch", "train", "evaluate"]),
        ({"train": {"option": 2}}, ["fetch", "prepare", "evaluate"]),
        ({"evaluate": {"option": 2}}, ["fetch", "prepare", "train"]),
        ({"seed": 2}, ["fetch", "prepare", "evaluate"]),
        ({"spark": {"option": 2}}, list(STAGES)),  # where Spark runs changes no dataset
        ({"train": {"option": 1, "new": None}}, ["fetch", "prepare", "evaluate"]),
    ],
)
def test_a_changed_option_invalidates_its_own_stage(run: RunDir, change: dict[str, Any], still_done: list[str]) -> None:
    write_json(run.config_file, CONFIG | change)
    assert done(run) == still_done


@pytest.mark.parametrize("stage", STAGES)
def test_changed_outputs_invalidate_all_later_stages(run: RunDir, stage: str) -> None:
    finish(run, stage, dataset="another")
    assert done(run) == list(STAGES[: STAGES.index(stage) + 1])


def test_the_same_outputs_again_invalidate_nothing(run: RunDir) -> None:
    finish(run, "prepare")
    assert done(run) == list(STAGES)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.unlink(),
        lambda path: path.write_text("longer than it was before"),
        lambda path: os.utime(path, ns=(0, path.stat().st_mtime_ns + 1)),
    ],
    ids=["removed", "resized", "touched"],
)
def test_a_changed_file_invalidates_its_stage(run: RunDir, change: Callable[[Path], Any]) -> None:
    change(output(run, "train"))
    assert done(run) == ["fetch", "prepare", "evaluate"]


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"key": 1}', '{"key": 1, "outputs": {}, "files": [1], "seconds": 0}', "\xff"],
)
def test_a_damaged_record_counts_as_missing(run: RunDir, content: str) -> None:
    raw = json.loads(run.record_file("evaluate").read_text())
    run.record_file("evaluate").write_bytes(content.encode("latin-1"))
    assert done(run) == ["fetch", "prepare", "train"]
    run.record_file("evaluate").write_text(json.dumps(raw | {"files": ["x"]}))
    assert done(run) == ["fetch", "prepare", "train"]


def test_without_a_config_nothing_is_done(run: RunDir) -> None:
    run.config_file.unlink()
    assert done(run) == []


def test_a_config_without_the_stages_section_is_not_done(run: RunDir) -> None:
    write_json(run.config_file, {key: value for key, value in CONFIG.items() if key != "train"})
    assert done(run) == ["fetch", "prepare", "evaluate"]


# --- keys and records


def test_keys_differ_from_stage_to_stage_and_stay_the_same(run: RunDir) -> None:
    keys = [stage_key(run, stage) for stage in STAGES]
    assert len(set(keys)) == len(STAGES)
    assert keys == [stage_key(run, stage) for stage in STAGES]


def test_the_order_of_keys_in_the_config_file_has_no_effect(run: RunDir) -> None:
    write_json(run.config_file, dict(reversed(CONFIG.items())))
    assert done(run) == list(STAGES)


def test_a_stage_key_needs_the_records_of_earlier_stages(run: RunDir) -> None:
    run.record_file("fetch").unlink()
    expected = (
        rf"{run.record_file('fetch')}: found no such file; fix: run `idxtrain fetch --run-id {run.selector}` first$"
    )
    with pytest.raises(InputError, match=expected):
        stage_key(run, "train")
    assert done(run) == []


def test_a_record_holds_key_outputs_files_and_seconds(run: RunDir) -> None:
    record = read_record(run, "prepare")
    status = output(run, "prepare").stat()
    assert record.key == stage_key(run, "prepare")
    assert record.outputs == {"name": "prepare"}
    assert record.files == (
        OutputFile(path=str(output(run, "prepare")), bytes=status.st_size, mtime_ns=status.st_mtime_ns),
    )
    assert record.seconds > 0


def test_an_invalid_record_is_refused_in_one_line(run: RunDir) -> None:
    run.record_file("prepare").write_text("{}")
    with pytest.raises(
        InputError,
        match=r"prepare\.json: is not a record of stage prepare \(key: Field required.*; fix: remove it to run prep",
    ):
        read_record(run, "prepare")


@pytest.mark.parametrize(
    ("outputs", "problem"),
    [
        ({"dataset_id": "0123"}, "found no dataset, manifest_sha256"),
        (
            {"dataset": 1, "dataset_id": "0123", "manifest_sha256": ""},
            "dataset: Input is not a valid path for <class 'pathlib.Path'>",
        ),
    ],
)
def test_outputs_of_another_version_are_refused_in_one_line(run: RunDir, outputs: dict[str, Any], problem: str) -> None:
    finish(run, "prepare", **outputs)
    with pytest.raises(InputError) as caught:
        read_outputs(run, PrepareOutputs)
    path = run.record_file("prepare")
    assert str(caught.value) == (
        f"{path}: {problem}, expected the record of this version; fix: remove {path} and run prepare again"
    )


def test_the_dataset_of_a_run_is_read_from_its_record(run: RunDir) -> None:
    finish(run, "prepare", dataset="/data/0123456789abcdef")
    assert dataset_of(run) == Path("/data/0123456789abcdef")
    finish(run, "prepare")
    with pytest.raises(InputError, match=r"prepare\.json: found no dataset; fix: remove .* and run prepare again$"):
        dataset_of(run)


def test_the_command_that_resumes_a_run_names_its_work_folder_unless_it_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir(tmp_path / "my work/runs/r1")
    assert run.selector == f"r1 --work '{tmp_path}/my work'"
    monkeypatch.chdir(tmp_path)
    assert RunDir(tmp_path / "work/runs/r1").selector == "r1"


def test_a_point_of_a_sweep_is_resumed_by_its_sweep_which_decides_what_is_tested(tmp_path: Path) -> None:
    points = [{"run_id": "s-0", "settings": [], "fold": ""}, {"run_id": "s-1", "settings": [], "fold": ""}]
    (tmp_path / "sweeps/s").mkdir(parents=True)
    write_json(tmp_path / "sweeps/s/sweep.json", {"points": points, "validation": {}})
    runs = {name: RunDir(tmp_path / "runs" / name) for name in ("s-1", "s-2", "s-1-best", "s")}
    runs["s-1"].slurm.mkdir(parents=True)
    (runs["s-1"].slurm / "site.json").touch()
    assert runs["s-1"].resumed_by == "the sweep's own command with `--name s`"
    assert str(stopped(5, 10, runs["s-1"])) == (
        "train: stopped on request at step 5 of 10; the sweep's own command with `--name s` resumes it"
    )
    for name in ("s-2", "s-1-best", "s"):
        assert runs[name].resumed_by == f"`idxtrain run --run-id {runs[name].selector}`"
    (tmp_path / "sweeps/s/sweep.json").write_text("[")
    assert runs["s-1"].resumed_by == f"`idxtrain submit --run-id {runs['s-1'].selector}`"


# --- the process

PROCESS = """
import logging, sys
from jobs.errors import IdxtrainError, InputError
from jobs.stage import run_as_process

def work(run):
    logging.getLogger("idxtrain").info("at work in %s", run.path)
    logging.getLogger("idxtrain").warning("look out")
    {body}

run_as_process("demo", work)
"""


def process(run: RunDir, body: str, *args: object, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROCESS.format(body=body), *map(str, args or [run.path])]
    return subprocess.run(command, env=os.environ | env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("body", "code", "last"),
    [
        ("pass", 0, "warning: look out"),
        (
            "raise InputError('a.gz: byte 4: bad; fix: download it again')",
            2,
            "idxtrain: a.gz: byte 4: bad; fix: download it again",
        ),
        ("raise IdxtrainError('Spark did not start')", 1, "idxtrain: Spark did not start"),
        (
            "raise OSError(28, 'No space left on device', '/data/x')",
            1,
            "idxtrain: demo: [Errno 28] No space left on device: '/data/x'; fix: free some space, then `idxtrain run "
            "--run-id r1 --work WORK` resumes it",
        ),
        ("open('nothing/here', 'w')", 1, "idxtrain: demo: [Errno 2] No such file or directory: 'nothing/here'"),
    ],
)
def test_a_stage_ends_with_its_code_and_one_line(new: RunDir, body: str, code: int, last: str) -> None:
    ended = process(new, body)
    expected = [f"at work in {new.path}", "warning: look out"]
    assert (ended.returncode, ended.stdout) == (code, "")
    last = last.replace("WORK", str(new.work.path))
    assert ended.stderr.splitlines() == (expected if code == 0 else [*expected, last])


def test_a_bug_keeps_its_traceback(new: RunDir) -> None:
    ended = process(new, "raise AssertionError('impossible')")
    assert ended.returncode == 70
    assert "Traceback" not in ended.stderr
    assert ended.stderr.endswith(f"idxtrain: demo: AssertionError: impossible; the traceback is in {new.logs}\n")
    assert "Traceback" in (new.logs / "demo.log").read_text()


def test_wrong_usage_is_reported_in_one_line(new: RunDir) -> None:
    ended = process(new, "pass", "one", "two")
    assert ended.returncode == 2
    assert ended.stderr == "idxtrain: usage: python -m jobs.demo RUN_DIR\n"


def test_a_directory_that_is_not_a_run_is_refused_and_left_alone(new: RunDir, tmp_path: Path) -> None:
    ended = process(new, "pass", tmp_path)
    assert ended.returncode == 2
    missing = tmp_path / "config.json"
    assert ended.stderr == f"idxtrain: {missing}: found no such file; fix: make the run with `idxtrain run`\n"
    assert list(tmp_path.iterdir()) == [tmp_path / "runs"]


@pytest.mark.parametrize(
    ("variable", "rank", "name"),
    [
        ("HOROVOD_RANK", "0", "demo.log"),
        ("HOROVOD_RANK", "3", "demo.rank-3.log"),
        ("OMPI_COMM_WORLD_RANK", "1", "demo.rank-1.log"),
        ("PMIX_RANK", "2", "demo.rank-2.log"),
    ],
)
def test_log_lines_are_kept_in_the_run_with_their_time(new: RunDir, variable: str, rank: str, name: str) -> None:
    process(new, "pass", **{variable: rank})
    process(new, "pass", **{variable: rank})
    assert [path.name for path in new.logs.glob("*.log")] == [name]
    lines = (new.logs / name).read_text().splitlines()
    assert [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ", "", line) for line in lines] == [
        f"INFO at work in {new.path}",
        "WARNING look out",
    ] * 2


def test_seconds_count_from_the_start_of_the_process(new: RunDir) -> None:
    body = """
    import time
    from jobs.stage import stage_key, write_record
    key = stage_key(run, "fetch")
    write_record(run, "fetch", key, {"working": time.process_time()}, [])
    """
    assert process(new, body.strip()).returncode == 0
    record = read_record(new, "fetch")
    # The clock of process creation has ticks of 10 ms.
    assert record.seconds > record.outputs["working"] - 0.05
    assert is_done(new, "fetch")


def ended() -> int:
    """Return the ID of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.mark.parametrize(
    ("parent", "between", "code"),
    [
        (os.getpid, False, 0),
        (os.getpid, True, 0),  # as with a container's runtime
        (ended, False, 1),
        (ended, True, 1),
        (str, False, 0),  # "": not requested
    ],
)
def test_a_stage_ends_with_the_process_that_started_it(parent: Callable[[], object], between: bool, code: int) -> None:
    command = [sys.executable, "-c", "from jobs.process import die_with_parent; die_with_parent()"]
    if between:
        command = ["sh", "-c", '"$@"; exit $?', "sh", *command]
    assert subprocess.run(command, env={**os.environ, PARENT: str(parent())}).returncode == code


def test_a_stage_ends_if_its_parent_died_before_the_request_to_the_kernel(tmp_path: Path) -> None:
    """Also if nobody has waited for the parent: a zombie still has its ID."""
    child = (
        "import sys; sys.stdin.read(); from jobs.process import die_with_parent; die_with_parent();"
        f"open({str(tmp_path / 'continued')!r}, 'w')"
    )
    starter = (
        "import os, signal, subprocess, sys;"
        f"environment = {{**os.environ, {PARENT!r}: str(os.getpid())}};"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], env=environment);"
        "print(child.pid, flush=True); signal.pause()"
    )
    process = subprocess.Popen([sys.executable, "-c", starter], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin
    assert process.stdout
    orphan = psutil.Process(int(process.stdout.readline()))
    process.kill()
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    process.stdin.close()  # the child continues from here
    while orphan.is_running() and orphan.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert not (tmp_path / "continued").exists()
    process.stdout.close()
    process.wait()
