"""What a rank tells its launcher."""

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
    monkeypatch.setattr(heartbeat, "_SECONDS", 3600.0)  # the tests write themselves
    (tmp_path / "beats").mkdir()
    return Heartbeat(0, {FOLDER: str(tmp_path / "beats")}, (tmp_path,))


def told(beat: Heartbeat, folder: Path) -> dict[str, Any]:
    beat._write()
    found: dict[str, Any] = json.loads((folder / "beats/rank-0.json").read_text())
    return found


def test_it_names_the_process(beat: Heartbeat, tmp_path: Path) -> None:
    found = told(beat, tmp_path)
    assert ProcessId(**{name: found[name] for name in ("host", "machine", "pid", "began")}).runs() is True


def test_a_piece_of_a_phase_is_progress_in_that_phase_alone(beat: Heartbeat, tmp_path: Path) -> None:
    beat.begun()
    beat.tell("validation", 3)
    before = told(beat, tmp_path)
    beat.progressed("input")  # a thread that reads ahead
    assert told(beat, tmp_path)["progress"] == before["progress"]
    beat.progressed("validation")
    assert told(beat, tmp_path)["progress"] > before["progress"]


def test_the_longest_call_is_told_the_first_included(beat: Heartbeat, tmp_path: Path) -> None:
    beat.tell("step", 0)
    time.sleep(0.3)
    assert told(beat, tmp_path)["phase"] == "starting"
    beat.begun()
    beat.tell("checkpoint", 1)
    assert told(beat, tmp_path)["longest"] == 0
    beat.tell("step", 1)
    assert told(beat, tmp_path)["longest"] >= 0.3


def test_the_end_of_the_start_is_told_at_once(beat: Heartbeat, tmp_path: Path) -> None:
    """A start may be silent for ten minutes: a rank that is stopped just after it must not pass for one."""
    beat.tell("step", 7)
    beat.begun()
    deadline = time.monotonic() + 10
    while json.loads((tmp_path / "beats/rank-0.json").read_text())["phase"] != "step":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_checkpoint_that_grows_is_progress(beat: Heartbeat, tmp_path: Path) -> None:
    beat.begun()
    beat.tell("checkpoint", 1)
    file = tmp_path / ".0a1b2c3d.tmp-step.safetensors"
    file.write_bytes(b"a")
    before = told(beat, tmp_path)["progress"]
    file.write_bytes(b"ab")
    assert told(beat, tmp_path)["progress"] == before + 1
    beat.tell("step", 1)  # a hang there is one, whatever is being written meanwhile
    before = told(beat, tmp_path)["progress"]
    file.write_bytes(b"abc")
    assert told(beat, tmp_path)["progress"] == before


def test_telling_costs_a_training_nothing() -> None:
    beat = Heartbeat(0, {})
    begin = time.perf_counter()
    for step in range(10_000):
        beat.tell("step", step)
    assert time.perf_counter() - begin < 0.5  # 50 µs each, where 1 µs was seen, and a step takes milliseconds


def test_nobody_watches_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Heartbeat(0, {}).tell("step", 1)
    assert list(tmp_path.iterdir()) == []
