"""5: two ranks of one thread against twice one rank of one thread, beside the peer's figure.

Two cores that share memory are not twice one core. So two independent trainings are timed side by side, too. They reach
about the most that two ranks can (a little more: each runs its first and last steps alone).
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.benchmarks.measures.training import images_per_second
from tests.benchmarks.room import Room
from tests.benchmarks.table import Ratio, Rounds, Section, figure, quotients
from tests.benchmarks.timing import run

_BATCH = 128  # per rank


def once(room: Room, number: int) -> dict[str, float]:
    return {
        "idxtrain 1": images_per_second(room, _BATCH, threads=1),
        "idxtrain 2": images_per_second(room, 2 * _BATCH, ranks=2, threads=1),
        "idxtrain apart": _side_by_side(room),
        "horovod 1": _horovod(room, 1),
        "horovod 2": _horovod(room, 2),
    }


def _side_by_side(room: Room) -> float:
    with ThreadPoolExecutor(2) as pool:
        return sum(pool.map(lambda _: images_per_second(room, _BATCH, threads=1), range(2)))


def _horovod(room: Room, ranks: int) -> float:
    steps = max(1, room.sizes.images // _BATCH // 2)
    horovodrun = Path(sys.executable).with_name("horovodrun")
    script = [
        sys.executable,
        "-m",
        "tests.benchmarks.peers.horovod_tape",
        str(room.archives()),
        str(_BATCH),
        str(steps),
    ]
    launcher = [str(horovodrun), "--gloo", "-np", str(ranks), "-H", f"localhost:{ranks}"]
    return float(run([*launcher, *script]).figures["images_per_second"])


def section(rounds: Rounds) -> Section:
    return Section(
        5,
        "Two ranks of one thread, the lecture's network, batch 128 per rank, float32",
        (
            Ratio("idxtrain: 2 ranks ÷ (2 × 1 rank)", quotients(rounds, "idxtrain 2", "idxtrain 1", 0.5), 0.85),
            Ratio("two trainings side by side ÷ (2 × 1 rank)", quotients(rounds, "idxtrain apart", "idxtrain 1", 0.5)),
            Ratio("idxtrain: 2 ranks ÷ two trainings side by side", quotients(rounds, "idxtrain 2", "idxtrain apart")),
            Ratio("Horovod's documented way: 2 ranks ÷ (2 × 1 rank)", quotients(rounds, "horovod 2", "horovod 1", 0.5)),
            Ratio("2 ranks: idxtrain ÷ Horovod's documented way", quotients(rounds, "idxtrain 2", "horovod 2")),
        ),
        (
            figure(rounds, "idxtrain 1", "images/s, idxtrain, 1 rank"),
            figure(rounds, "idxtrain 2", "images/s, idxtrain, 2 ranks together"),
            figure(rounds, "idxtrain apart", "images/s, two trainings of 1 rank side by side, together"),
            figure(rounds, "horovod 1", "images/s, `DistributedGradientTape`, 1 rank"),
            figure(rounds, "horovod 2", "images/s, `DistributedGradientTape`, 2 ranks together"),
        ),
    )
