"""python -m tests.benchmarks.small_sets RESULTS.jsonl [--seeds 5] [--choose]: what small data sets get from `fast`.

On twelve sets of 100 to 5,000 images (`tests/support/small_sets.py`) it compares three trainings on the same rows:

- `default`: the recipe `fast`, whose batch and number of epochs follow from the rows;
- `30 epochs`: the same with 30 epochs of batch 32;
- `Keras`: a plain Keras CNN, 15 epochs of batch 32, Adam at 1e-3 (the network: keras.io, "Simple MNIST convnet").

Each training is a line of RESULTS.jsonl; those that are there are not repeated. The table has mean test accuracies in %
over the seeds, and the default against the better of the other two; SMALL_SETS.md keeps it. `--choose` takes images
that no table reports on: settings are chosen by those.
"""

import argparse
import json
import logging
import os
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.dataset import Manifest, PixelStatistics
from jobs.prepare.plan import even_ranges
from jobs.tensorflow_import import import_tensorflow
from jobs.train.config import TrainConfig
from jobs.train.data.calls import GraphCall, plan_calls
from jobs.train.data.length import row_order, total_steps
from models.training.schedules import Rates
from pipelines.config import compose
from tests.support.small_sets import SETS, SmallSet

_HELD_OUT = 12  # every twelfth row of a class is for validation, as by default


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("results", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--choose", action="store_true")
    options = parser.parse_args()
    import_tensorflow(Path(os.devnull))
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    options.results.touch()
    for seed in range(options.seeds):
        for name, make in SETS.items():
            done = {(line["set"], line["how"], line["seed"]) for line in read(options.results)}
            for how in (how for how in TRAININGS if (name, how, seed) not in done):
                data = make("choose" if options.choose else "report")
                begin = time.monotonic()
                accuracy = TRAININGS[how](data, seed)
                line = {"set": name, "how": how, "seed": seed, "accuracy": accuracy, "s": time.monotonic() - begin}
                with options.results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
    print("\n".join(table(read(options.results))))


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def table(lines: list[dict[str, Any]]) -> list[str]:
    """Return the table in Markdown: one row per set."""
    by_set: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        by_set[line["set"]][line["how"]].append(line)
    rows = [f"| set | {' | '.join(TRAININGS)} | difference | errors, ratio |", "|---|---:|---:|---:|---:|---:|"]
    for name, by_how in by_set.items():
        percent = {how: 100 * mean(line["accuracy"] for line in each) for how, each in by_how.items()}
        columns = " | ".join(f"{percent[how]:.1f}" for how in TRAININGS)
        difference = percent["default"] - max(percent["30 epochs"], percent["Keras"])
        errors = (100 - percent["default"]) / (100 - percent["default"] + difference)
        rows.append(f"| {name} | {columns} | {difference:+.1f} | {errors:.2f} |")
    return rows


def default(data: SmallSet, seed: int) -> float:
    """Return the test accuracy of the default."""
    return _trained(compose("fast", {}).train, data, seed)


def thirty_epochs(data: SmallSet, seed: int) -> float:
    """Return the test accuracy of 30 epochs of batch 32."""
    return _trained(compose("fast", {}, ["train.epochs=30", "train.batch_size=32"]).train, data, seed)


def _trained(config: TrainConfig, data: SmallSet, seed: int) -> float:
    """Train as `jobs.train.worker` does on one rank; return the test accuracy."""
    from jobs.train.compute.collective import Collective
    from jobs.train.compute.evaluator import make_evaluator
    from jobs.train.compute.network import Network
    from jobs.train.worker import make_step

    images, labels = _training_rows(data)
    pixels = PixelStatistics(mean=images.mean(), std=images.std(), min=images.min(), max=images.max())
    manifest = Manifest.model_construct(shape=images.shape[1:], classes=int(labels.max()) + 1, pixels=pixels)
    order = row_order(config, [stop - start for start, stop in even_ranges(len(labels), 2500)], seed)
    steps = total_steps(config, order)
    peak = config.peak_rate(order.batch_size)
    rates = Rates(config.schedule, steps, peak, config.warmup_fraction, config.final_rate_fraction)
    network = Network(config, manifest, seed, "float32")
    step = make_step(config, network, Collective(), seed)
    flat = images.reshape(len(images), -1)
    for epoch in range(-(-steps // order.steps)):
        drawn = order.epoch(epoch)
        for call in plan_calls(order, epoch, epoch * order.steps, steps, config.log_every, config.log_every):
            rows = drawn.rank_rows(call.first, call.last, 0, 1).reshape(call.last - call.first, -1)
            last = call.first_step + len(rows)
            step(_graph_call(flat, labels, rows, call.first_step), rates[call.first_step : last])
    test = _normalized(data.test_images)
    evaluate = make_evaluator(network.final)
    predicted, _ = evaluate(test.reshape(len(test), -1), data.test_labels.astype(np.int32))
    return float((predicted == data.test_labels).mean())


def _graph_call(images: NDArray[Any], labels: NDArray[Any], rows: NDArray[Any], first_step: int) -> GraphCall:
    return GraphCall(
        first_step=first_step,
        images=images[rows],
        labels=labels[rows],
        weights=np.ones(rows.shape, np.float32),
        indices=rows.reshape(-1),
        first_row=0,
        global_rows=rows.shape[1],
    )


def plain_keras(data: SmallSet, seed: int) -> float:
    """Return the test accuracy of a plain Keras CNN."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy("float32")
    images, labels = _training_rows(data)
    model = keras.Sequential(
        [
            layers.Input(images.shape[1:]),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(int(labels.max()) + 1, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.Adam(1e-3), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(images, labels, batch_size=32, epochs=15, verbose=0)
    _, accuracy = model.evaluate(_normalized(data.test_images), data.test_labels, batch_size=500, verbose=0)
    return float(accuracy)


TRAININGS: Mapping[str, Callable[[SmallSet, int], float]] = {
    "Keras": plain_keras,
    "30 epochs": thirty_epochs,
    "default": default,
}


def _training_rows(data: SmallSet) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the rows that are not for validation: images float32 [n, height, width, channels], labels int32 [n]."""
    is_held_out = np.zeros(len(data.train_labels), bool)
    for label in np.unique(data.train_labels):
        is_held_out[np.flatnonzero(data.train_labels == label)[_HELD_OUT // 2 :: _HELD_OUT]] = True
    return _normalized(data.train_images[~is_held_out]), data.train_labels[~is_held_out].astype(np.int32)


def _normalized(images: NDArray[Any]) -> NDArray[Any]:
    values = images.astype(np.float32) / 255
    return values if values.ndim == 4 else values[..., None]


if __name__ == "__main__":
    main()
