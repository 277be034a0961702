"""The nine measures, one per file: `once` takes the figures of a round, `section` writes the rounds as a section."""

from collections.abc import Callable
from typing import NamedTuple

from tests.benchmarks.measures import (
    matmul_peak,
    memory,
    prepare,
    reader,
    reader_bytes,
    real_input,
    scaling,
    step_speed,
    to_accuracy,
)
from tests.benchmarks.room import Room
from tests.benchmarks.table import Rounds, Section


class Measure(NamedTuple):
    """How one measure is taken. `once`: from (room, number of the round) to the round's figures by name."""

    once: Callable[[Room, int], dict[str, float]]
    section: Callable[[Rounds], Section]


MEASURES = {
    "to_accuracy": Measure(to_accuracy.once, to_accuracy.section),
    "step_speed": Measure(step_speed.once, step_speed.section),
    "matmul_peak": Measure(matmul_peak.once, matmul_peak.section),
    "real_input": Measure(real_input.once, real_input.section),
    "scaling": Measure(scaling.once, scaling.section),
    "reader": Measure(reader.once, reader.section),
    "reader_bytes": Measure(reader_bytes.once, reader_bytes.section),
    "prepare": Measure(prepare.once, prepare.section),
    "memory": Measure(memory.once, memory.section),
}
