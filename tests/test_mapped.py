"""Arrays in files: what is taken of them is right, and their pages leave this process's memory."""

from pathlib import Path

import numpy as np
import psutil
import pytest

from jobs.prepare import mapped

ROWS, WIDTH = 1 << 18, 192  # 48 MB


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rows"
    np.random.default_rng(0).integers(-128, 128, (ROWS, WIDTH), np.int8).tofile(path)
    return path


def shared_bytes() -> int:
    return int(psutil.Process().memory_info().shared)


@pytest.mark.parametrize("part", [slice(None), slice(12, 24)])
def test_rows_of_a_large_file_are_taken_with_few_of_its_pages_in_memory(
    file: Path, part: slice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped, "_MOST_BYTES", 8 << 20)
    monkeypatch.setattr(mapped, "_TOGETHER", 64)
    values = mapped.mapped(file, np.dtype("i1"), WIDTH)[:, part]
    rows = np.random.default_rng(1).integers(0, ROWS, 50_000)
    before = shared_bytes()
    taken, every_third = mapped.take(values, rows), mapped.take(values, slice(None, None, 3))
    assert shared_bytes() - before < 8 << 20
    expected = np.fromfile(file, np.int8).reshape(ROWS, WIDTH)[:, part]
    assert np.array_equal(taken, expected[rows])
    assert np.array_equal(every_third, expected[::3])


def test_rows_of_memory_and_of_a_small_file_are_copies(file: Path) -> None:
    values = mapped.mapped(file, np.dtype("i1"), WIDTH)
    for each in (values, np.array(values[:100])):
        taken = mapped.take(each, np.array([7, 3]))
        assert np.array_equal(taken, each[[7, 3]])
        assert not np.shares_memory(taken, each)
        assert not np.shares_memory(mapped.take(each, slice(2, 9)), each)
