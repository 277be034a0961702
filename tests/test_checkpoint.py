"""Checkpoints: intact or not used, whatever happened while they were written."""

import json
import logging
import os
import signal
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from jobs.errors import InputError
from jobs.files import remove_unfinished, sha256_file, write_json
from jobs.train import checkpoint
from jobs.train.best import Best
from jobs.train.checkpoint import FORMAT, Checkpoint, Position, Writer, latest, load_best, save

KEY = "k" * 64


def state(step: int, key: str = KEY, best: int | None = None) -> Checkpoint:
    """Return a state. `best`: the step of its best validation."""
    random = np.random.default_rng(step)
    arrays: dict[str, NDArray[Any]] = {
        "weight.0": random.normal(size=(5, 7)).astype(np.float32),
        "m.0": random.normal(size=3),
    }
    best_so_far = None if best is None else Best(step=best, errors=1, loss=0.1, count=10)
    return Checkpoint(position=Position(step, key), arrays=arrays, best=best_so_far)


def same(one: Checkpoint | None, other: Checkpoint) -> bool:
    return (
        one is not None
        and one.position == other.position
        and one.arrays.keys() == other.arrays.keys()
        and all(np.array_equal(one.arrays[name], other.arrays[name]) for name in other.arrays)
    )


def test_a_saved_state_is_loaded_again(tmp_path: Path) -> None:
    save(tmp_path, state(3), keep=2)
    assert same(latest(tmp_path, KEY), state(3))


def test_the_newest_is_loaded_and_only_the_last_are_kept(tmp_path: Path) -> None:
    for step in (9, 10, 11, 100):
        save(tmp_path, state(step), keep=2)
    assert same(latest(tmp_path, KEY), state(100))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"step-{step:08d}.{kind}" for step in (11, 100) for kind in ("json", "safetensors")
    ]


def test_the_best_on_validation_is_kept_too(tmp_path: Path) -> None:
    for step, best in ((1, 1), (2, 2), (3, 2), (4, 2), (5, 2)):
        save(tmp_path, state(step, best=best), keep=1)
    newest = latest(tmp_path, KEY, with_best=True)
    assert newest is not None
    assert newest.best == Best(step=2, errors=1, loss=0.1, count=10)
    assert same(load_best(tmp_path, newest.best, KEY), state(2))
    assert [path.name for path in sorted(tmp_path.glob("*.safetensors"))] == [
        "step-00000002.safetensors",
        "step-00000005.safetensors",
    ]


def test_the_best_of_each_kept_checkpoint_is_kept_until_none_of_them_needs_it(tmp_path: Path) -> None:
    for step, best in ((1, 1), (2, 1), (3, 3)):
        save(tmp_path, state(step, best=best), keep=2)
    assert len(list(tmp_path.glob("*.safetensors"))) == 3
    save(tmp_path, state(4, best=3), keep=2)
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == [
        "step-00000003.safetensors",
        "step-00000004.safetensors",
    ]


@pytest.mark.parametrize("with_best", [True, False])
def test_a_checkpoint_whose_best_is_damaged_is_skipped_only_if_the_best_is_needed(
    tmp_path: Path, with_best: bool
) -> None:
    for step, best in ((1, 1), (2, 2), (3, 2)):
        save(tmp_path, state(step, best=best), keep=3)
    (tmp_path / "step-00000002.safetensors").write_bytes(b"")
    assert same(latest(tmp_path, KEY, with_best=with_best), state(1 if with_best else 3))


def test_another_trainings_checkpoint_is_skipped_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, state(1), keep=3)
    save(tmp_path, state(2, key="another"), keep=3)
    logging.getLogger("idxtrain").propagate = True
    assert same(latest(tmp_path, KEY), state(1))
    assert "another training's checkpoint; trying the previous one" in caplog.text
    assert latest(tmp_path, "no training's") is None
    save(tmp_path, state(3, key="another", best=2), keep=3)
    caplog.clear()
    assert same(latest(tmp_path, KEY, with_best=True), state(1))
    assert "damaged" not in caplog.text


def test_this_trainings_checkpoint_of_another_format_is_refused(tmp_path: Path) -> None:
    save(tmp_path, state(1), keep=3)
    save(tmp_path, replace(state(2), format=FORMAT + 1), keep=3)
    assert latest(tmp_path, "no training's") is None
    with pytest.raises(InputError, match=f"step-00000002.safetensors: found format {FORMAT + 1}, expected {FORMAT}; "):
        latest(tmp_path, KEY)


def test_a_checkpoint_of_a_version_with_another_row_order_is_refused(tmp_path: Path) -> None:
    """Early versions wrote neither the format nor whether the state was validated."""
    path, old = tmp_path / "step-00000003.safetensors", state(3)
    save_file(dict(old.arrays), path, {"position": json.dumps(asdict(old.position))})
    write_json(path.with_suffix(".json"), {"sha256": sha256_file(path), "bytes": path.stat().st_size})
    with pytest.raises(InputError, match=r"step-00000003.safetensors: found format 1, expected 2; fix: resume with "):
        latest(tmp_path, KEY)


@pytest.mark.parametrize("validated", [True, False])
def test_a_checkpoint_keeps_whether_its_state_was_validated(tmp_path: Path, validated: bool) -> None:
    save(tmp_path, replace(state(3), validated=validated), keep=2)
    loaded = latest(tmp_path, KEY)
    assert loaded is not None
    assert loaded.validated is validated


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "no checksum", "torn checksum"])
def test_a_damaged_checkpoint_is_skipped(tmp_path: Path, damage: str) -> None:
    save(tmp_path, state(1), keep=3)
    newest = save(tmp_path, state(2), keep=3)
    content = bytearray(newest.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        newest.write_bytes(content)
    elif damage == "cut":
        newest.write_bytes(content[:-1])
    elif damage == "empty":
        newest.write_bytes(b"")
    elif damage == "no checksum":
        newest.with_suffix(".json").unlink()
    else:
        newest.with_suffix(".json").write_text('{"sha256": "')
    assert same(latest(tmp_path, KEY), state(1))


def test_a_missing_folder_is_not_an_error(tmp_path: Path) -> None:
    assert latest(tmp_path / "none", KEY) is None
    remove_unfinished(tmp_path / "none")


def save_and_die(directory: Path, events: int) -> bool:
    """Save step 2 in a child that is killed at its `events`-th file operation; return whether it finished."""
    child = os.fork()
    if child == 0:
        count = 0

        def hook(event: str, arguments: object) -> None:
            nonlocal count
            if event.startswith(("open", "os.")):
                count += 1
                if count == events:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(hook)
            save(directory, state(2, best=2), keep=1)
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL)
    return os.waitstatus_to_exitcode(status) == 0


def test_after_a_kill_at_any_point_of_a_write_an_intact_checkpoint_is_used(tmp_path: Path) -> None:
    reached, points = set(), 0
    while True:
        points += 1
        directory = tmp_path / str(points)
        save(directory, state(1, best=1), keep=1)
        finished = save_and_die(directory, points)
        remove_unfinished(directory)
        loaded = latest(directory, KEY, with_best=True)
        assert loaded is not None
        assert same(loaded, state(loaded.position.step))
        reached.add(loaded.position.step)
        assert not list(directory.glob(".*"))
        assert loaded.best is not None
        assert same(load_best(directory, loaded.best, KEY), loaded)
        if finished:
            break
    assert points > 10  # opens, flushes, renames and removals of both files
    assert reached == {1, 2}


def test_the_writer_writes_one_checkpoint_after_another_in_its_thread(tmp_path: Path) -> None:
    writer = Writer(tmp_path, keep=3)
    arrays = {"weight.0": np.zeros(1_000_000, np.float32)}
    for step in (1, 2, 3):
        writer.save(Checkpoint(position=Position(step, KEY), arrays=arrays))
    writer.wait()
    loaded = latest(tmp_path, KEY)
    assert loaded is not None
    assert loaded.position.step == 3


def test_a_held_best_state_is_written_before_the_next_checkpoint_that_names_it(tmp_path: Path) -> None:
    writer = Writer(tmp_path, keep=1, min_seconds=1000)
    assert not writer.is_due()
    for step in (1, 2):
        writer.hold(state(step, best=step))
    writer.save(state(5, best=2))
    writer.save(state(6, best=2))
    writer.wait()
    assert [path.name for path in sorted(tmp_path.glob("*.safetensors"))] == [
        "step-00000002.safetensors",
        "step-00000006.safetensors",
    ]
    last = latest(tmp_path, KEY, with_best=True)
    assert same(last, state(6, best=2))


def test_an_error_in_the_writers_thread_is_raised_by_the_next_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_atomic", full)
    writer = Writer(tmp_path, keep=3)
    writer.save(state(1))
    with pytest.raises(OSError, match="No space left"):
        writer.save(state(2))


def test_nothing_in_a_checkpoint_is_executable(tmp_path: Path) -> None:
    path = save(tmp_path, state(1), keep=1)
    header = path.read_bytes()[8:]
    assert json.loads(header[: int.from_bytes(path.read_bytes()[:8], "little")])["__metadata__"]["position"]
