"""Models whose answers show which of them computed it, registered or in this process, without training."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.registry.registry import Registry
from deploy.registry.versions import CHAMPION, Entry
from deploy.serving.batches import Batches
from deploy.serving.limits import Limits
from deploy.serving.server import Address, http_server, listener_at
from deploy.serving.service import Service
from jobs.dataset import MANIFEST, Manifest
from jobs.files import sealed, sha256_file, write_json
from jobs.predict.classifier import Classifier
from jobs.predict.model_file import ModelFile
from jobs.run_dir import Work
from tests.support.champions import TRAINING_DATA

SHAPE, LABELS = (6, 5, 1), (-1, 3, 5, 300)
NAME = "digits"


def manifest(shape: tuple[int, int, int] = SHAPE, **changes: Any) -> Manifest:
    """Return the manifest of a dataset of four classes that nobody made."""
    empty = {"rows": 0, "label_counts": [0] * len(LABELS), "shards": []}
    values = {
        "format": 2,
        "dataset_id": "0123456789abcdef",
        "shape": shape,
        "classes": len(LABELS),
        "labels": LABELS,
        "class_names": ("minus one", "three", "5", "300"),
        "orientation": "none",
        "splits": {"train": empty, "validation": empty, "test": empty},
        "pixels": {"mean": 0.5, "std": 0.3, "min": 0.0, "max": 1.0},
        "normalization": {"rule": "type-range", "offset": 0.0, "scale": 1 / 255},
        "duplicates": {"test_images_in_train": 0, "examples": []},
        "sources": {},
        "options": {},
        "versions": {},
    }
    return Manifest.model_validate(values | changes)


class NamedModel:
    """Stands for a ServedModel. Gives each image a probability of `share` for class `number`, and notes the batches."""

    def __init__(self, number: int = 0, share: float = 0.7, **changes: Any) -> None:
        self.manifest = manifest(**changes)
        self.file = ModelFile(
            title=f"model {number}", path=Path("none"), sha256=f"{number}" * 64, manifest=self.manifest
        )
        self.version, self.run_id, self.number, self.share = number, f"r{number}", number, share
        self.classifier = Classifier.__new__(Classifier)
        self.classifier.manifest = self.manifest
        self.batches: list[NDArray[Any]] = []
        self.may_compute = threading.Event()
        self.may_compute.set()
        self.begun = threading.Event()

    def probabilities(self, images: NDArray[Any]) -> NDArray[Any]:
        self.begun.set()
        assert self.may_compute.wait(30)
        self.batches.append(images)
        result = np.full((len(images), len(LABELS)), (1 - self.share) / 3, np.float32)
        result[:, self.number] = self.share
        return result


@contextmanager
def serving_here(
    model: NamedModel | None, limits: Limits, token: str | None = None, drain: float = 0.0
) -> Iterator[tuple[int, Service]]:
    """Run the HTTP server in a thread of this process; yield its port and its service."""
    service = Service(limits)
    if model is not None:
        service.serve(model)  # type: ignore[arg-type]
    address = Address(host="127.0.0.1", port=0, token=token)
    with listener_at(address) as listener:
        port = listener.getsockname()[1]
        server = http_server(service, address, limits, drain)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield port, service
        finally:
            server.stop()
            thread.join(30)
            service.stop()
    assert not thread.is_alive()


def batches(most_batch: int = 4, most_waiting: int = 100) -> Batches:
    return Batches(most_batch, most_waiting, lambda images: None)


def images(*values: float) -> NDArray[Any]:
    """Return float32 images, each of one value."""
    return np.array(values, np.float32)[:, None, None, None] * np.ones((1, *SHAPE), np.float32)


async def all_of(*answers: "asyncio.Future[NDArray[Any]]") -> list[NDArray[Any]]:
    return list(await asyncio.gather(*answers))


def registered(folder: Path, versions: int) -> Registry:
    """Return a registry of models, each of which is sure of the class with the index of its version − 1."""
    work = Work(folder / "work")
    registry = Registry(work, NAME, {})
    write_json(folder / MANIFEST, sealed(manifest().model_dump(mode="json")))
    for number in range(1, versions + 1):
        registry.register(entry(folder, number))
    registry.set_alias(CHAMPION, 1)
    return registry


def entry(folder: Path, number: int) -> Entry:
    import keras

    keras.utils.set_random_seed(number)
    inputs = keras.Input(SHAPE)
    x = keras.layers.Flatten()(keras.layers.Conv2D(2, 3, activation="relu")(inputs))
    dense = keras.layers.Dense(len(LABELS), bias_initializer="zeros")
    model = keras.Model(inputs, keras.layers.Softmax()(dense(x)))
    dense.bias.assign([50.0 if index == number - 1 else 0.0 for index in range(len(LABELS))])
    path = folder / f"{number}.keras"
    model.save(path)
    return replace(
        _ENTRY,
        run_id=f"r{number}",
        model=path,
        model_sha256=sha256_file(path),
        files=(folder / MANIFEST,),
    )


_ENTRY = Entry(
    run_id="",
    model=Path(),
    model_sha256="",
    shape=SHAPE,
    labels=LABELS,
    class_names=("minus one", "three", "5", "300"),
    parameters={},
    metrics={"test_accuracy": 0.9},
    curve=(),
    dataset_id="0123456789abcdef",
    data=TRAINING_DATA.model_dump(mode="json"),
    code={},
    files=(),
)
