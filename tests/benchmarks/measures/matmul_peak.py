"""3: the share of the machine's arithmetic that a training uses, against a matrix product in the same precision."""

import sys

from tests.benchmarks.measures.training import images_per_second, precisions
from tests.benchmarks.room import Room
from tests.benchmarks.table import Ratio, Rounds, Section, figure, quotients
from tests.benchmarks.timing import run

# Per image, forward and backward through the lecture's network: three products per layer, but two in the first, as
# nobody needs the gradient of the pixels.
#   conv1 2·28·28·25·32, conv2 2·14·14·25·32·64, dense 2·3136·1024, logits 2·1024·10
GFLOP_AN_IMAGE = (2 * 1.254 + 3 * (20.070 + 6.423 + 0.020)) / 1000
_BATCH = 256


def once(room: Room, number: int) -> dict[str, float]:
    figures = {}
    for precision in precisions():
        peak = [sys.executable, "-m", "tests.benchmarks.contenders.matmul_peak", precision]
        rate = images_per_second(room, _BATCH, precision)
        figures[f"{precision} images/s"] = rate
        figures[f"{precision} used"] = rate * GFLOP_AN_IMAGE
        figures[f"{precision} peak"] = run([*peak, *map(str, room.sizes.matrices)]).figures["gflops"]
    return figures


def section(rounds: Rounds) -> Section:
    precisions_measured = [name.split()[0] for name in rounds[0] if name.endswith("peak")]
    return Section(
        3,
        "Images/s × 82 MFLOP ÷ the machine's matrix product, batch 256",
        tuple(
            Ratio(
                f"{precision}: images/s × 82 MFLOP ÷ matmul peak",
                quotients(rounds, f"{precision} used", f"{precision} peak"),
                0.7,
            )
            for precision in precisions_measured
        ),
        tuple(
            each
            for precision in precisions_measured
            for each in (
                figure(rounds, f"{precision} images/s", f"images/s, {precision}"),
                figure(rounds, f"{precision} used", f"— in GFLOP/s, {precision}"),
                figure(rounds, f"{precision} peak", f"matrix product in TensorFlow, {precision}, GFLOP/s"),
            )
        ),
    )
