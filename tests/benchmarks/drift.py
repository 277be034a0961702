"""python -m tests.benchmarks.drift [WORK]: which drift of new training pairs the gate sees, its false alarms, its cost.

A champion is trained by `idxtrain retrain` on 30,000 random images of MNIST's training archive, with the default
recipe. Pairs of 5,000 images come from the other 30,000: 100 clean ones, and one for each kind of drift; Kannada-MNIST
is test data (`tests/support/real_data.py`). Each pair is judged alone, at the default thresholds. Those were chosen
with another random half of the archive as the champion's data, on other changes: rotations by 5° and 15°, shifts by 1
and 2 pixels, noise, contrast, gamma, dilation, sharpening, slight blur (sigma 0.5), halved resolution, and 10 %
inverted images.

Also printed, to judge the threshold by natural drift: MNIST's test images, whose halves have writers of two kinds, and
the training archive's own blocks of 5,000 rows, whose writers differ. The cost is that of the comparison in a second
retraining, with one clean pair.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from jobs.dataset import read_manifest
from jobs.evaluate.comparison import FeatureDrift
from jobs.evaluate.drift import MOST_NEW, Reference, feature_drift
from jobs.evaluate.predict import load_model
from jobs.files import read_object
from jobs.prepare import idx
from jobs.run_dir import RunDir
from jobs.stage import dataset_of
from jobs.tensorflow_import import import_tensorflow
from pipelines.gate.config import GateConfig
from pipelines.gate.drift_checks import feature_checks
from tests.support.real_data import real_data

SEED, CLEAN_PAIRS, PAIR = 2, 100, 5000
BATCH = 500

Pair = tuple[NDArray[Any], NDArray[Any]]  # images uint8 [rows, 28, 28], labels uint8 [rows]


def blurred(images: NDArray[Any]) -> NDArray[Any]:
    return gaussian_filter(images.astype(float), (0, 1, 1)).round().astype(np.uint8)


DRIFTS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "transposed": lambda images: images.transpose(0, 2, 1),
    "mirrored": lambda images: images[:, :, ::-1],
    "inverted": lambda images: 255 - images,
    "shifted by 4": lambda images: np.pad(images, ((0, 0), (0, 0), (4, 0)))[:, :, :-4],
    "blurred (sigma 1)": blurred,
}


def main(work: Path) -> None:
    """Print the tables."""
    train, test = mnist(work)
    random = np.random.default_rng(SEED)
    order = random.permutation(len(train[0]))
    champion_rows, unseen = order[:30_000], order[30_000:]
    champion, seconds = retrained(work, train, champion_rows, "", test)
    challenger, seconds = retrained(work, train, random.permutation(unseen)[:PAIR], "clean", test)
    import_tensorflow(work / "tensorflow.log")
    model = load_model(champion.model_file, (28, 28, 1), 10)
    begin = time.perf_counter()
    manifest = read_manifest(dataset_of(challenger))
    feature_drift(model, dataset_of(champion), dataset_of(challenger), manifest, BATCH)
    cost = time.perf_counter() - begin
    reference = Reference(model, dataset_of(champion), BATCH)

    def judged(pair: Pair, seed: int = 0) -> tuple[FeatureDrift, bool]:
        images, labels = pair
        kept = np.arange(min(MOST_NEW, len(images))) * len(images) // min(MOST_NEW, len(images))
        pixels = (images[kept, :, :, None] / 255).astype(np.float32)
        result = reference.compare(pixels, labels[kept].astype(np.int64), seed)
        drift = FeatureDrift(tag="", images=result.images, distance=result.distance, p_value=result.p_value)
        (check,) = feature_checks(GateConfig(), [drift], "")
        return drift, not check.holds

    def drawn() -> Pair:
        rows = random.permutation(unseen)[:PAIR]
        return train[0][rows], train[1][rows]

    print("| pair of 5,000 | distance | p | flagged |\n|---|---:|---:|---|")
    flagged = 0
    for name, change in DRIFTS.items():
        images, labels = drawn()
        flagged += show(name, *judged((change(images), labels)))
    flagged += show("Kannada-MNIST", *judged(kannada()))
    clean = [judged(drawn(), seed) for seed in range(CLEAN_PAIRS)]
    distances, alarms = [drift.distance for drift, _ in clean], sum(is_flagged for _, is_flagged in clean)
    print(f"| {CLEAN_PAIRS} clean pairs, the farthest | {max(distances):.3f} | | {alarms} |")
    for first in (0, 5000):
        rows = slice(first, first + 5000)
        show(f"MNIST's test images from {first}", *judged((test[0][rows], test[1][rows])))
    is_unseen = np.isin(np.arange(len(order)), unseen)
    blocks = [np.flatnonzero(is_unseen[first : first + PAIR]) + first for first in range(0, len(order), PAIR)]
    natural = [judged((train[0][rows], train[1][rows])) for rows in blocks]
    farthest, alarms_of_blocks = (
        max(drift.distance for drift, _ in natural),
        sum(is_flagged for _, is_flagged in natural),
    )
    print(f"| {len(blocks)} blocks of the archive, the farthest | {farthest:.3f} | | {alarms_of_blocks} |")
    print(f"\n{flagged} of {len(DRIFTS) + 1} drifts flagged, {alarms} false alarms in {CLEAN_PAIRS} clean pairs")
    print(f"cost: {cost:.1f} s of a retraining of {seconds:.1f} s ({cost / seconds:.1%})")


def show(name: str, drift: FeatureDrift, is_flagged: bool) -> bool:
    print(f"| {name} | {drift.distance:.3f} | {drift.p_value:.4f} | {'yes' if is_flagged else 'no'} |", flush=True)
    return is_flagged


def mnist(work: Path) -> tuple[Pair, Pair]:
    """Return MNIST's training and test archives as `idxtrain fetch` gets them."""
    idxtrain("fetch", "--dataset", "mnist", "--work", work / "work")
    folder = work / "work/archives/mnist"
    train, test = (
        (idx.read(next(folder.glob(f"{split}-images*"))), idx.read(next(folder.glob(f"{split}-labels*"))))
        for split in ("train", "t10k")
    )
    return train, test


def idxtrain(*arguments: str | Path) -> None:
    subprocess.run([Path(sys.executable).with_name("idxtrain"), *arguments], check=True, stdout=sys.stderr)


def kannada() -> Pair:
    folder = real_data("kannada")
    images, labels = (next(folder.glob(f"{kind}_kannada_MNIST_test*")) for kind in ("X", "y"))
    return idx.read(images)[:PAIR], idx.read(labels)[:PAIR]


def retrained(work: Path, train: Pair, rows: NDArray[Any], tag: str, test: Pair) -> tuple[RunDir, float]:
    """Add these rows as a training pair, retrain; return the run and the seconds that the retraining took."""
    data, middle = work / "data", f"-{tag}" if tag else ""
    data.mkdir(exist_ok=True)
    idx.write(data / "t10k-images-idx3-ubyte", test[0])
    idx.write(data / "t10k-labels-idx1-ubyte", test[1])
    idx.write(data / f"train-images{middle}-idx3-ubyte", train[0][rows])
    idx.write(data / f"train-labels{middle}-idx1-ubyte", train[1][rows])
    begin = time.perf_counter()
    idxtrain("retrain", "--data", data, "--work", work / "work", "--dataset", "digits")
    seconds = time.perf_counter() - begin
    state = read_object(work / "work/retrain/digits/state.json", "")
    return RunDir(work / "work/runs" / state["run_id"]), seconds


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(Path(folder))
