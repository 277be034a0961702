"""The flight recorder: sums, stragglers, `idxtrain stragglers`."""

from pathlib import Path

import pytest

from jobs.errors import InputError
from jobs.flight_log import Flight, RankTimes, read_flights, straggler, sums
from jobs.run_dir import RunDir
from jobs.train.telemetry.flight_recorder import FlightRecorder
from pipelines.straggler import lines


def record(run: RunDir, rank: int, input_: float, compute: float, allreduce: float, calls: int = 4) -> None:
    recorder = FlightRecorder(run.logs / f"flight.rank-{rank}.jsonl")
    for call in range(calls):
        # The first call, which builds the graph, is slow on every rank and must not count.
        seconds = compute if call else 60.0
        recorder.record(Flight(step=call * 10, images=100, input=input_, compute=seconds, allreduce=allreduce))


def test_sums_skip_the_first_call_and_a_torn_line(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    record(run, 0, 0.1, 0.8, 0.1)
    with (run.logs / "flight.rank-0.jsonl").open("a") as file:
        file.write('{"step": 4, "ima')
    (times,) = sums(read_flights(run.logs))
    assert (times.rank, times.images) == (0, 300)
    assert times.input == pytest.approx(0.3)
    assert times.compute == pytest.approx(2.4)
    assert times.seconds == pytest.approx(3.0)


def test_ranks_are_sorted_by_number(tmp_path: Path) -> None:
    for rank in (10, 2, 0):
        record(RunDir(tmp_path), rank, 0.1, 0.8, 0.1)
    assert [times.rank for times in sums(read_flights(tmp_path / "logs"))] == [0, 2, 10]


@pytest.mark.parametrize(("slow", "why"), [((0.5, 0.4, 0.0), "waiting for input"), ((0.1, 0.8, 0.0), "computing")])
def test_the_straggler_is_the_rank_that_waits_least(tmp_path: Path, slow: tuple[float, float, float], why: str) -> None:
    run = RunDir(tmp_path)
    record(run, 0, 0.1, 0.4, 0.4)
    record(run, 1, *slow)
    record(run, 2, 0.1, 0.4, 0.4)
    text = "\n".join(lines(run))
    assert f"straggler: rank 1, which spends its time {why}" in text


def test_equal_ranks_have_no_straggler(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    record(run, 0, 0.1, 0.8, 0.10)
    record(run, 1, 0.1, 0.8, 0.11)
    assert straggler(sums(read_flights(run.logs))) is None
    assert "no straggler" in "\n".join(lines(run))
    assert straggler([RankTimes(rank=0, images=1, input=0.1, compute=0.8, allreduce=0.1)]) is None


def test_a_run_without_a_training_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found no record of a training"):
        lines(RunDir(tmp_path))
