"""Stalls, recognized by heartbeats, with a clock of the test's own."""

import json
from pathlib import Path

from deploy.launcher.watch import Watch


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def beat(folder: Path, rank: int, step: int, phase: str, time: float, progress: int = 0, longest: float = 0.0) -> None:
    beat = {"time": time, "step": step, "phase": phase, "progress": progress, "longest": longest}
    (folder / f"rank-{rank}.json").write_text(json.dumps(beat))


def test_ranks_that_make_progress_are_no_stall(tmp_path: Path) -> None:
    clock = Clock()
    watch = Watch(tmp_path, range(2), 10, clock)
    for second in range(60):
        clock.now += 1
        for rank in range(2):
            beat(tmp_path, rank, second // 5, "step", second)
        assert watch.stall() is None
    assert watch.step() == 11


def test_the_rank_without_heartbeats_is_the_stalled_one_when_no_rank_makes_progress(tmp_path: Path) -> None:
    clock = Clock()
    watch = Watch(tmp_path, range(3), 10, clock)
    stall = None
    for second in range(14):
        clock.now += 1
        for rank in range(3):
            if rank != 2 or second < 2:
                beat(tmp_path, rank, 5, "step", second)
        stall = stall or watch.stall()
    assert stall is not None
    assert stall.rank == 2
    assert "sent no heartbeat" in stall.reason


def test_the_rank_that_does_not_enter_the_graph_is_the_stalled_one(tmp_path: Path) -> None:
    clock = Clock()
    watch = Watch(tmp_path, range(3), 10, clock)
    stall = None
    for second in range(14):
        clock.now += 1
        for rank in range(3):
            beat(tmp_path, rank, 5, "input" if rank == 1 else "step", second)
        stall = stall or watch.stall()
    assert stall == (1, "made no progress in phase input for 10 s")


def test_a_slow_start_is_no_stall_within_10_minutes(tmp_path: Path) -> None:
    clock = Clock()
    watch = Watch(tmp_path, range(2), 10, clock)
    for second in range(300):
        clock.now += 1
        for rank in range(2):
            if second > 100:  # imports from a cold file system: no heartbeat yet
                beat(tmp_path, rank, 0, "starting", second)
        assert watch.stall() is None
    clock.now += 600
    beat(tmp_path, 0, 0, "starting", 1000)
    beat(tmp_path, 1, 0, "starting", 1000)
    assert watch.stall() is not None


def test_a_long_validation_is_no_stall_while_it_makes_progress(tmp_path: Path) -> None:
    clock = Clock()
    watch = Watch(tmp_path, range(2), 10, clock)
    for second in range(100):
        clock.now += 1
        beat(tmp_path, 0, 5, "validation", second, progress=second // 6)
        beat(tmp_path, 1, 5, "validation", second, progress=9)  # has finished its share and waits
        assert watch.stall() is None
    for second in range(100, 112):
        clock.now += 1
        for rank in range(2):
            beat(tmp_path, rank, 5, "validation", second, progress=99)
        stall = watch.stall()
    assert stall == (0, "made no progress in phase validation for 10 s")


def test_a_phase_may_pause_three_times_as_long_as_its_longest_pause_so_far(tmp_path: Path) -> None:
    clock = Clock()
    watch = Watch(tmp_path, range(2), 10, clock)
    stall = None
    for second in range(60):
        clock.now += 1
        for rank in range(2):
            beat(tmp_path, rank, 5, "step", second, longest=12.0)
        stall = watch.stall()
        assert (stall is None) == (second <= 36)
    assert stall == (0, "made no progress in phase step for 36 s")


def test_a_checkpoint_may_take_10_minutes_but_no_longer(tmp_path: Path) -> None:
    clock = Clock()
    watch = Watch(tmp_path, range(2), 10, clock)
    for second in range(602):
        clock.now += 1
        beat(tmp_path, 0, 5, "checkpoint", second)
        beat(tmp_path, 1, 5, "step", second)
        stall = watch.stall()
        assert (stall is None) == (second <= 600)
    assert stall == (0, "made no progress in phase checkpoint for 600 s")


def test_an_import_that_blocks_the_heartbeat_thread_is_no_stall(tmp_path: Path) -> None:
    clock = Clock()
    watch = Watch(tmp_path, range(1), 10, clock)
    beat(tmp_path, 0, 0, "starting", 0)
    for _ in range(300):
        clock.now += 1
        assert watch.stall() is None


def test_a_torn_heartbeat_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "rank-0.json").write_text('{"time": 1')
    assert Watch(tmp_path, range(1), 10, Clock()).step() == 0


def test_no_heartbeat_is_due_from_a_rank_that_has_ended(tmp_path: Path) -> None:
    """The others stop with it; rank 0 may still be writing a checkpoint."""
    clock = Clock()
    watch, unaware = (Watch(tmp_path, range(2), 10, clock) for _ in range(2))
    beat(tmp_path, 1, 7, "step", 0)
    stall = None
    for second in range(60):
        clock.now += 1
        beat(tmp_path, 0, 7, "checkpoint", second, progress=second)
        assert watch.stall(ended=[1]) is None
        stall = unaware.stall()
    assert stall == (1, "sent no heartbeat for 10 s")
    for second in range(60, 662):
        clock.now += 1
        beat(tmp_path, 0, 7, "checkpoint", second, progress=60)
        stall = watch.stall(ended=[1])
    assert stall == (0, "made no progress in phase checkpoint for 600 s")
