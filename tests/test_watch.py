"""Stalls by heartbeats, with a clock of the test's."""

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


def test_ranks_that_move_are_well(tmp_path: Path) -> None:
    clock = Clock()
    watch = Watch(tmp_path, range(2), 10, clock)
    for second in range(60):
        clock.now += 1
        for rank in range(2):
            beat(tmp_path, rank, second // 5, "step", second)
        assert watch.stalled() is None
    assert watch.step() == 11


def test_a_silent_rank_is_named_though_all_have_stopped_moving(tmp_path: Path) -> None:
    clock = Clock()
    watch = Watch(tmp_path, range(3), 10, clock)
    found = None
    for second in range(14):
        clock.now += 1
        for rank in range(3):
            if rank != 2 or second < 2:
                beat(tmp_path, rank, 5, "step", second)
        found = found or watch.stalled()
    assert found is not None
    assert found[0] == 2
    assert "no sign of life" in found[1]


def test_a_rank_that_does_not_come_to_the_graph_is_named(tmp_path: Path) -> None:
    clock = Clock()
    watch = Watch(tmp_path, range(3), 10, clock)
    found = None
    for second in range(14):
        clock.now += 1
        for rank in range(3):
            beat(tmp_path, rank, 5, "input" if rank == 1 else "step", second)
        found = found or watch.stalled()
    assert found == (1, "was at the same point (input) for 10 s")


def test_a_slow_start_is_no_stall(tmp_path: Path) -> None:
    clock = Clock()
    watch = Watch(tmp_path, range(2), 10, clock)
    for second in range(300):
        clock.now += 1
        for rank in range(2):
            if second > 100:  # imports from a cold file system: no heartbeat yet
                beat(tmp_path, rank, 0, "starting", second)
        assert watch.stalled() is None
    clock.now += 600
    beat(tmp_path, 0, 0, "starting", 1000)
    beat(tmp_path, 1, 0, "starting", 1000)
    assert watch.stalled() is not None


def test_a_long_validation_that_gets_on_is_no_stall(tmp_path: Path) -> None:
    clock = Clock()
    watch = Watch(tmp_path, range(2), 10, clock)
    for second in range(100):
        clock.now += 1
        beat(tmp_path, 0, 5, "validation", second, progress=second // 6)
        beat(tmp_path, 1, 5, "validation", second, progress=9)  # has done its share, and waits
        assert watch.stalled() is None
    for second in range(100, 112):
        clock.now += 1
        for rank in range(2):
            beat(tmp_path, rank, 5, "validation", second, progress=99)
        found = watch.stalled()
    assert found == (0, "was at the same point (validation) for 10 s")


def test_a_call_may_take_three_times_the_longest_before_it(tmp_path: Path) -> None:
    clock = Clock()
    watch = Watch(tmp_path, range(2), 10, clock)
    found = None
    for second in range(60):
        clock.now += 1
        for rank in range(2):
            beat(tmp_path, rank, 5, "step", second, longest=12.0)
        found = watch.stalled()
        assert (found is None) == (second <= 36)
    assert found == (0, "was at the same point (step) for 36 s")


def test_a_slow_disk_is_no_stall_but_one_that_hangs_is(tmp_path: Path) -> None:
    clock = Clock()
    watch = Watch(tmp_path, range(2), 10, clock)
    for second in range(602):
        clock.now += 1
        beat(tmp_path, 0, 5, "checkpoint", second)
        beat(tmp_path, 1, 5, "step", second)
        found = watch.stalled()
        assert (found is None) == (second <= 600)
    assert found == (0, "was at the same point (checkpoint) for 600 s")


def test_an_import_that_lets_no_other_thread_run_is_no_stall(tmp_path: Path) -> None:
    clock = Clock()
    watch = Watch(tmp_path, range(1), 10, clock)
    beat(tmp_path, 0, 0, "starting", 0)
    for _ in range(300):
        clock.now += 1
        assert watch.stalled() is None


def test_a_torn_heartbeat_is_no_heartbeat(tmp_path: Path) -> None:
    (tmp_path / "rank-0.json").write_text('{"time": 1')
    assert Watch(tmp_path, range(1), 10, Clock()).step() == 0


def test_a_rank_that_has_ended_gives_no_sign_of_life_and_need_not(tmp_path: Path) -> None:
    """The others stop with it; rank 0 may still be writing a checkpoint."""
    clock = Clock()
    watch, unaware = (Watch(tmp_path, range(2), 10, clock) for _ in range(2))
    beat(tmp_path, 1, 7, "step", 0)
    found = None
    for second in range(60):
        clock.now += 1
        beat(tmp_path, 0, 7, "checkpoint", second, progress=second)
        assert watch.stalled(ended=[1]) is None
        found = unaware.stalled()
    assert found == (1, "gave no sign of life for 10 s")
    for second in range(60, 662):
        clock.now += 1
        beat(tmp_path, 0, 7, "checkpoint", second, progress=60)
        found = watch.stalled(ended=[1])
    assert found == (0, "was at the same point (checkpoint) for 600 s")
