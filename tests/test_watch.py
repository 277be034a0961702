"""Stalls by heartbeats, with a clock of the test's."""

import json
from pathlib import Path

from deploy.watch import Watch


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def beat(folder: Path, rank: int, step: int, phase: str, time: float) -> None:
    (folder / f"rank-{rank}.json").write_text(json.dumps({"time": time, "step": step, "phase": phase, "pid": 1}))


def test_ranks_that_move_are_well(tmp_path: Path) -> None:
    clock = Clock()
    watch = Watch(tmp_path, 2, 10, clock)
    for second in range(60):
        clock.now += 1
        for rank in range(2):
            beat(tmp_path, rank, second // 5, "step", second)
        assert watch.stalled() is None
    assert watch.step() == 11


def test_a_silent_rank_is_named_though_all_have_stopped_moving(tmp_path: Path) -> None:
    clock = Clock()
    watch = Watch(tmp_path, 3, 10, clock)
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
    watch = Watch(tmp_path, 3, 10, clock)
    found = None
    for second in range(14):
        clock.now += 1
        for rank in range(3):
            beat(tmp_path, rank, 5, "input" if rank == 1 else "step", second)
        found = found or watch.stalled()
    assert found == (1, "was at the same point (input) for 10 s")


def test_a_slow_start_is_no_stall(tmp_path: Path) -> None:
    clock = Clock()
    watch = Watch(tmp_path, 2, 10, clock)
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


def test_a_torn_heartbeat_is_no_heartbeat(tmp_path: Path) -> None:
    (tmp_path / "rank-0.json").write_text('{"time": 1')
    assert Watch(tmp_path, 1, 10, Clock()).step() == 0
