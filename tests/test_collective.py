"""What ranks do together. The tests of training cover most of it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jobs.train.compute.collective import is_lost_peer

SHOW = (
    "from jobs.train.compute.collective import Collective; import os; Collective(); "
    "print(os.environ['HOROVOD_CYCLE_TIME'])"
)


@pytest.mark.long
@pytest.mark.parametrize(("variables", "cycle_time"), [({}, "3"), ({"HOROVOD_CYCLE_TIME": "0.5"}, "0.5")])
def test_horovods_cycle_time_is_3_ms_on_cpus_unless_the_user_sets_it(
    variables: dict[str, str], cycle_time: str
) -> None:
    inherited = {name: value for name, value in os.environ.items() if name != "HOROVOD_CYCLE_TIME"}
    ended = subprocess.run(
        [sys.executable, "-c", SHOW], env={**inherited, **variables}, capture_output=True, text=True, check=True
    )
    assert ended.stdout.split()[-1] == cycle_time


@pytest.mark.parametrize(
    ("text", "is_lost"),
    [
        ("Horovod has been shut down. This was caused by an exception on one of the ranks", True),
        ("Graph execution error: [/x/gloo/transport/tcp/pair.cc:589] Read error [127.0.0.1]:1: Connection reset", True),
        ("[/x/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 30000ms for recv operation", True),
        ("Incompatible shapes: [3] vs. [4]", False),
    ],
)
def test_the_error_of_a_lost_peer_is_recognized(text: str, is_lost: bool) -> None:
    assert is_lost_peer(RuntimeError(text)) is is_lost


# Each rank draws its own values and saves the sum over all ranks.
SUM = """
import sys
from pathlib import Path
import numpy as np, tensorflow as tf
from jobs.train.compute.collective import Collective
from jobs.train.compute.compression import sum_bfloat16
collective = Collective()
values = np.random.default_rng(collective.rank).normal(size=(7, 3)).astype(np.float32)
total = tf.function(lambda x: sum_bfloat16(x, collective, "x"))(tf.constant(values))
np.save(Path(sys.argv[1]) / f"{collective.rank}.npy", total)
"""


@pytest.mark.long
@pytest.mark.parametrize(("ranks", "roundings"), [(2, 1), (5, 2)])
def test_bfloat16_sums_have_the_same_bits_on_every_rank(ranks: int, roundings: int, tmp_path: Path) -> None:
    """Two ranks: each sums all values. More ranks: each sums a share, of 21 values on 5, rounded once more."""
    command = [sys.executable, "-m", "deploy.launcher", "--np", str(ranks), sys.executable, "-c", SUM, str(tmp_path)]
    subprocess.run(command, capture_output=True, check=True)
    first, *others = (np.load(tmp_path / f"{rank}.npy") for rank in range(ranks))
    assert all(np.array_equal(first, other) for other in others)
    drawn = np.stack([np.random.default_rng(rank).normal(size=(7, 3)) for rank in range(ranks)])
    assert np.all(np.abs(first - drawn.sum(0)) <= roundings * 2**-8 * np.abs(drawn).sum(0))
    assert not np.allclose(first, drawn.sum(0), rtol=1e-5)
