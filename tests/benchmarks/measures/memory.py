"""8: peak memory of each stage, and its growth with the data."""

from tests.benchmarks.measures.stages import STAGES, stage_run
from tests.benchmarks.room import Room
from tests.benchmarks.table import Figure, Ratio, Rounds, Section, figure, quotients

_MOST = 1.5  # bound on the growth


def once(room: Room, number: int) -> dict[str, float]:
    figures = {"factor": float(room.sizes.factor)}
    for name, factor in (("one", 1), ("many", room.sizes.factor)):
        for stage in STAGES:
            figures[f"{stage} {name}"] = stage_run(room, number, factor, stage).peak_bytes / 1e6
    return figures


def section(rounds: Rounds) -> Section:
    times = f"×{rounds[0]['factor']:.0f}"
    figures: list[Figure] = []
    for stage in STAGES:
        figures += [
            figure(rounds, f"{stage} {name}", f"{stage}, {times if name == 'many' else '×1'}", ",.0f", " MB")
            for name in ("one", "many")
        ]
    bounded = {"prepare": _MOST, "train": _MOST}
    return Section(
        8,
        "Peak memory of each stage",
        tuple(
            Ratio(
                f"{stage}: memory at {times} ÷ at ×1",
                quotients(rounds, f"{stage} many", f"{stage} one"),
                None,
                bounded.get(stage),
            )
            for stage in STAGES
        ),
        tuple(figures),
        (
            "The peak of the resident memory of the stage's process and all its descendants (Java and Python workers). "
            "Shared pages count once per process. The training is one epoch of `softmax` with `train.cache=never`, so "
            "its rows stream; with `auto` they stay in memory if they fit into `train.cache_share` of what is free.",
        ),
    )
