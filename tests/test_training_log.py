"""The training log: what is written is read, whatever a killed process left in the file."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import training_log


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    with path.open("w") as file:
        for step in (10, 20):
            training_log.append(file, "train", step, loss=1 / step, accuracy=0.5)
        training_log.append(file, "validation", 20, accuracy=0.25)
    return path


def test_measurements_are_read_in_the_order_written(log: Path) -> None:
    assert list(training_log.read(log)) == [
        {"kind": "train", "step": 10, "loss": 0.1, "accuracy": 0.5},
        {"kind": "train", "step": 20, "loss": 0.05, "accuracy": 0.5},
        {"kind": "validation", "step": 20, "accuracy": 0.25},
    ]


def test_each_line_reaches_the_file_at_once(tmp_path: Path) -> None:
    with (tmp_path / "train.jsonl").open("w") as file:
        training_log.append(file, "train", 1, loss=0.5)
        assert len(list(training_log.read(tmp_path / "train.jsonl"))) == 1


def test_a_missing_file_has_no_measurements(tmp_path: Path) -> None:
    assert list(training_log.read(tmp_path / "train.jsonl")) == []


@pytest.mark.parametrize(
    "line",
    [b'{"kind": "tra', b"", b"[1]", b"\xff\xfe", b'{"step": 3}', b'{"kind": "train"}', b'{"kind": 1, "step": 3}',
     b'{"kind": "train", "step": "3"}', b'{"kind": "train", "step": true}', b'{"kind": "train", "step": 1e999}',
     b"[" * 100_000],
)  # fmt: skip
def test_a_line_that_is_not_a_measurement_is_skipped(log: Path, line: bytes) -> None:
    expected = list(training_log.read(log))
    with log.open("ab") as file:
        file.write(line + b"\n" + b'{"kind": "train", "step": 30}\n')
    assert list(training_log.read(log)) == [*expected, {"kind": "train", "step": 30}]


@pytest.mark.parametrize(("step", "left"), [(0, []), (10, [10]), (19, [10]), (20, [10, 20, 20]), (99, [10, 20, 20])])
def test_truncate_keeps_the_measurements_up_to_a_step(log: Path, step: int, left: list[int]) -> None:
    with log.open("a") as file:
        file.write('{"kind": "train", "step": 2')
    training_log.truncate(log, step)
    assert [entry["step"] for entry in training_log.read(log)] == left
    assert len(log.read_text().splitlines()) == len(left)


@given(st.dictionaries(st.sampled_from(["loss", "accuracy", "rate"]), st.floats(allow_nan=False)))
def test_infinite_values_come_back(tmp_path_factory: pytest.TempPathFactory, values: dict[str, float]) -> None:
    path = tmp_path_factory.mktemp("log") / "train.jsonl"
    with path.open("w") as file:
        training_log.append(file, "train", 7, **values)
    assert list(training_log.read(path)) == [{"kind": "train", "step": 7, **values}]
