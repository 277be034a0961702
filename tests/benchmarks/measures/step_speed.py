"""2: images a second in the lecture's network, steady state."""

import sys
from pathlib import Path

from tests.benchmarks.measures.training import best, images_per_second, precisions
from tests.benchmarks.room import Room
from tests.benchmarks.table import Ratio, Rounds, Section, figure, quotients
from tests.benchmarks.timing import run
from tests.benchmarks.torch_environment import VERSION

_PEERS = Path(__file__).parent.parent / "peers"


def once(room: Room, number: int) -> dict[str, float]:
    images, archives = str(room.sizes.images), str(room.archives())
    ours = {
        f"{batch} {precision}": images_per_second(room, batch, precision)
        for batch in (50, 128)
        for precision in precisions()
    }
    peer = [sys.executable, "-m"]
    steps = str(max(2, room.sizes.images // 50))
    found = {
        "lecture": run([*peer, "tests.benchmarks.peers.lecture_script", archives, steps]),
        "keras": run([*peer, "tests.benchmarks.peers.keras_fit", archives, "128", images]),
    }
    if room.torch:
        found["torch"] = run([str(room.torch), str(_PEERS / "torch_mnist.py"), archives, "128", images])
    return ours | {name: float(done.said["images_per_second"]) for name, done in found.items()}


def section(rounds: Rounds) -> Section:
    quick = best({name.split()[1] for name in rounds[0] if " " in name})
    notes = [
        "idxtrain has TensorFlow take oneDNN's kernels on every CPU; by itself, as the peers run it, TensorFlow does "
        "so on those with AVX-512 VNNI or the like."
    ]
    if quick == "float32":
        notes.append(
            "This processor has no units that make bfloat16 quicker than float32, so bfloat16 is not measured, and the "
            "first ratio of each pair is of float32."
        )
    if "torch" not in rounds[0]:
        notes.append("PyTorch: no CPU build of it was to be had here.")
    return Section(
        2,
        "Images a second, the lecture's network",
        (
            Ratio(
                f"batch 50: idxtrain in {quick} ÷ the lecture's script",
                quotients(rounds, f"50 {quick}", "lecture"),
                1.4,
            ),
            Ratio("batch 50: float32 ÷ the lecture's script", quotients(rounds, "50 float32", "lecture"), 1.0),
            Ratio(f"batch 128: idxtrain in {quick} ÷ Keras `fit`", quotients(rounds, f"128 {quick}", "keras"), 2.0),
            Ratio("batch 128: float32 ÷ Keras `fit`", quotients(rounds, "128 float32", "keras"), 1.35),
            Ratio("batch 128: float32 ÷ PyTorch's loop", quotients(rounds, "128 float32", "torch")),
        ),
        (
            *(figure(rounds, name, f"idxtrain, batch {name}") for name in rounds[0] if " " in name),
            figure(rounds, "lecture", "the lecture's script, batch 50"),
            figure(rounds, "keras", "Keras `fit` on arrays in memory, batch 128"),
            figure(rounds, "torch", f"PyTorch {VERSION}'s basic loop, batch 128"),
        ),
        tuple(notes),
    )
