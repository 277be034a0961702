"""2: images per second in the lecture's network, steady state."""

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
    peers = {
        "lecture": run([*peer, "tests.benchmarks.peers.lecture_script", archives, steps]),
        "keras": run([*peer, "tests.benchmarks.peers.keras_fit", archives, "128", images]),
    }
    if room.torch:
        peers["torch"] = run([str(room.torch), str(_PEERS / "torch_mnist.py"), archives, "128", images])
    return ours | {name: float(done.figures["images_per_second"]) for name, done in peers.items()}


def section(rounds: Rounds) -> Section:
    fastest = best({name.split()[1] for name in rounds[0] if " " in name})
    remarks = [
        "idxtrain enables oneDNN's kernels on every CPU. By default, as for the peers, TensorFlow enables them only on "
        "CPUs with AVX-512 VNNI or similar."
    ]
    if fastest == "float32":
        remarks.append(
            "This processor is not faster in bfloat16 than in float32. So bfloat16 is not measured, and the first "
            "ratio of each pair is for float32."
        )
    if "torch" not in rounds[0]:
        remarks.append("PyTorch: no CPU build was available.")
    return Section(
        2,
        "Images per second, the lecture's network",
        (
            Ratio(
                f"batch 50: idxtrain in {fastest} ÷ the lecture's script",
                quotients(rounds, f"50 {fastest}", "lecture"),
                1.4,
            ),
            Ratio("batch 50: float32 ÷ the lecture's script", quotients(rounds, "50 float32", "lecture"), 1.0),
            Ratio(f"batch 128: idxtrain in {fastest} ÷ Keras `fit`", quotients(rounds, f"128 {fastest}", "keras"), 2.0),
            Ratio("batch 128: float32 ÷ Keras `fit`", quotients(rounds, "128 float32", "keras"), 1.35),
            Ratio("batch 128: float32 ÷ PyTorch's loop", quotients(rounds, "128 float32", "torch")),
        ),
        (
            *(figure(rounds, name, f"idxtrain, batch {name}") for name in rounds[0] if " " in name),
            figure(rounds, "lecture", "the lecture's script, batch 50"),
            figure(rounds, "keras", "Keras `fit` on arrays in memory, batch 128"),
            figure(rounds, "torch", f"PyTorch {VERSION}'s basic loop, batch 128"),
        ),
        tuple(remarks),
    )
