"""The heartbeats that a rank writes for its launcher."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from jobs.process import ProcessId
from jobs.train.telemetry import heartbeat
from jobs.train.telemetry.heartbeat import FOLDER, Heartbeat


@pytest.fixture
def beat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Heartbeat:
    monkeypatch.setattr(heartbeat, "_SECONDS", 3600.0)  # the tests write the heartbeats themselves
    (tmp_path / "beats").mkdir()
    return Heartbeat(0, {FOLDER: str(tmp_path / "beats")}, (tmp_path,))


def written(beat: Heartbeat, folder: Path) -> dict[str, Any]:
    beat._write()
    content: dict[str, Any] = json.loads((folder / "beats/rank-0.json").read_text())
    return content


def test_a_heartbeat_identifies_its_process(beat: Heartbeat, tmp_path: Path) -> None:
    content = written(beat, tmp_path)
    assert ProcessId(**{name: content[name] for name in ("host", "machine", "pid", "began")}).runs() is True


def test_progress_counts_only_in_its_own_phase(beat: Heartbeat, tmp_path: Path) -> None:
    beat.begun()
    beat.enter("validation", 3)
    before = written(beat, tmp_path)
    beat.progressed("input")  # a thread that reads ahead
    assert written(beat, tmp_path)["progress"] == before["progress"]
    beat.progressed("validation")
    assert written(beat, tmp_path)["progress"] > before["progress"]


def test_the_longest_pause_of_a_phase_is_written_that_of_the_first_call_included(
    beat: Heartbeat, tmp_path: Path
) -> None:
    beat.enter("step", 0)
    time.sleep(0.3)
    assert written(beat, tmp_path)["phase"] == "starting"
    beat.begun()
    beat.enter("checkpoint", 1)
    assert written(beat, tmp_path)["longest"] == 0
    beat.enter("step", 1)
    assert written(beat, tmp_path)["longest"] >= 0.3


def test_the_end_of_the_start_is_written_at_once(beat: Heartbeat, tmp_path: Path) -> None:
    """A start may be silent for 10 minutes: a rank that is stopped just after it must not look like one."""
    beat.enter("step", 7)
    beat.begun()
    deadline = time.monotonic() + 10
    while json.loads((tmp_path / "beats/rank-0.json").read_text())["phase"] != "step":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_growing_checkpoint_is_progress(beat: Heartbeat, tmp_path: Path) -> None:
    beat.begun()
    beat.enter("checkpoint", 1)
    file = tmp_path / ".0a1b2c3d.tmp-step.safetensors"
    file.write_bytes(b"a")
    before = written(beat, tmp_path)["progress"]
    file.write_bytes(b"ab")
    assert written(beat, tmp_path)["progress"] == before + 1
    beat.enter("step", 1)  # in which a growing file must not hide a hang
    before = written(beat, tmp_path)["progress"]
    file.write_bytes(b"abc")
    assert written(beat, tmp_path)["progress"] == before


def test_entering_a_phase_costs_a_training_next_to_nothing() -> None:
    beat = Heartbeat(0, {})
    begin = time.perf_counter()
    for step in range(10_000):
        beat.enter("step", step)
    assert time.perf_counter() - begin < 0.5  # 50 µs each; measured: 1 µs, and a step takes milliseconds


def test_without_a_launcher_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Heartbeat(0, {}).enter("step", 1)
    assert list(tmp_path.iterdir()) == []
