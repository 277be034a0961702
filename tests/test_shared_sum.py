"""Sums over the ranks of one machine in memory that they share."""

import multiprocessing
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from jobs.train.compute.collective import is_lost_peer
from jobs.train.compute.shared_sum import shared_sum

SHAPES = [(5, 3), (1,), (70_000,), (2, 2, 2)]
TURNS = 3

# Each rank adds up values of its own in a graph that computes with the sums, and saves the last results.
RANK = """
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
import numpy as np, tensorflow as tf
from jobs.train.compute import collective, shared_sum
from tests.test_shared_sum import TURNS, values
dtype, way, folder = sys.argv[1:]
ranks = collective.Collective()
if way == "shared":
    ranks.sum = None  # Horovod's
elif ranks.rank == 1:
    shared_sum.SharedMemory.join = lambda *_: None
graph = tf.function(lambda *gradients: [2 * total for total in ranks.sum_gradients(gradients)])
for turn in range(TURNS):
    sums = graph(*map(tf.constant, values(ranks.rank, turn, dtype)))
np.savez(Path(folder) / f"{ranks.rank}.npz", *[total.numpy() for total in sums])
"""


def values(rank: int, turn: int, dtype: str) -> list[NDArray[Any]]:
    random = np.random.default_rng([rank, turn])
    return [random.normal(size=shape).astype(dtype) for shape in SHAPES]


@pytest.mark.long
@pytest.mark.parametrize(
    ("ranks", "dtype", "way"), [(2, "float32", "shared"), (3, "float64", "shared"), (2, "float32", "Horovod")]
)
def test_each_rank_gets_the_sums_bit_for_bit_with_or_without_shared_memory(
    ranks: int, dtype: str, way: str, tmp_path: Path
) -> None:
    """Without: one rank cannot open the memory."""
    command = [sys.executable, "-m", "deploy.launcher", "--np", str(ranks), sys.executable, "-c", RANK]
    subprocess.run([*command, dtype, way, str(tmp_path)], capture_output=True, check=True)
    given = [values(rank, TURNS - 1, dtype) for rank in range(ranks)]
    for rank in range(ranks):
        with np.load(tmp_path / f"{rank}.npz") as file:
            sums = list(file.values())
        for total, addends in zip(sums, zip(*given, strict=True), strict=True):
            np.testing.assert_array_equal(total, 2 * sum(addends[1:], addends[0]))


def gathered(rank: int, other: Connection) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Return what gathers the values of two processes."""

    def gather(own: NDArray[Any]) -> NDArray[Any]:
        other.send(own)
        both = (own, other.recv())
        return np.concatenate(both if rank == 0 else both[::-1])

    return gather


def adds_up_once(first_rank: Connection) -> None:
    add_up = shared_sum(1, 2, [(4,)], np.float32, gathered(1, first_rank))
    assert add_up
    add_up(np.full(4, 2, np.float32))


def test_the_end_of_another_rank_ends_a_sum() -> None:
    ours, theirs = multiprocessing.Pipe()
    second_rank = multiprocessing.get_context("spawn").Process(target=adds_up_once, args=(theirs,))
    second_rank.start()
    add_up = shared_sum(0, 2, [(4,)], np.float32, gathered(0, ours))
    assert add_up
    assert [total.tolist() for total in add_up(np.ones(4, np.float32))] == [[3, 3, 3, 3]]
    with pytest.raises(RuntimeError, match="a rank on this machine has ended: rank 1") as error:
        add_up(np.ones(4, np.float32))
    assert is_lost_peer(error.value)
    second_rank.join()
    assert second_rank.exitcode == 0
