"""4: input that Petastorm reads against input in memory, in the same training.

Measured over a whole epoch: the reader prefetches, so part of an epoch would pay for more rows than it trains on.
"""

from tests.benchmarks.measures.training import images_per_second
from tests.benchmarks.room import Room
from tests.benchmarks.table import Ratio, Rounds, Section, figure, quotients

_BATCH = 128
_SYNTHETIC = "tests.benchmarks.contenders.synthetic_input"


def once(room: Room, number: int) -> dict[str, float]:
    return {
        "real": images_per_second(room, _BATCH, whole_epoch=True),
        "synthetic": images_per_second(room, _BATCH, module=_SYNTHETIC, whole_epoch=True),
    }


def section(rounds: Rounds) -> Section:
    return Section(
        4,
        "Real input against synthetic input, the lecture's network, batch 128, float32",
        (Ratio("real input ÷ synthetic input in memory", quotients(rounds, "real", "synthetic"), 0.98),),
        (
            figure(rounds, "real", "images/s, rows read through Petastorm, the first epoch"),
            figure(rounds, "synthetic", "images/s, the same rows from memory"),
        ),
    )
