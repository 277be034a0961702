"""Demos to open in a browser: of a trained run, as `idxtrain demo` serves it, and of untrained networks of any shape."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from numpy.typing import NDArray

from jobs.demo.app import app
from jobs.demo.gallery import Gallery
from jobs.demo.server import listen
from jobs.demo.shown import Shown
from jobs.run_dir import Work
from tests.support.prepared import bare_manifest

IDXTRAIN = Path(sys.executable).with_name("idxtrain")


@dataclass(frozen=True, kw_only=True)
class Demo:
    """A demo that is served. `models`: the same keras.Models. `names`: of the classes."""

    address: str
    models: Sequence[Any]
    shape: tuple[int, int, int]
    names: Sequence[str]

    def probabilities(self, image: NDArray[Any]) -> NDArray[Any]:
        """Return the first model's probabilities, float32 [classes]."""
        result: NDArray[Any] = np.asarray(self.models[0](image[None], training=False))[0]
        return result


@contextmanager
def of_run(work: Work, run_id: str) -> Iterator[Demo]:
    """Serve the model of a run on MNIST with `idxtrain demo`, in a process of its own, until it gets Ctrl-C's signal."""
    import keras

    command = [IDXTRAIN, "demo", run_id, "--no-open", "--work", work.path]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            address = next(word for word in line.split() if word.startswith("http://"))
            model = keras.models.load_model(work.runs / run_id / "model.keras", compile=False)
            names = [str(digit) for digit in range(10)]
            yield Demo(address=address, models=[model], shape=(28, 28, 1), names=names)
        finally:
            process.terminate()


@contextmanager
def serving(folder: Path, architectures: Sequence[str], shape: tuple[int, int, int], classes: int) -> Iterator[Demo]:
    """Serve untrained networks from a thread of this process. `folder`: where there is no dataset."""
    shown = [_shown(folder, architecture, shape, classes) for architecture in architectures]
    with listen(0) as listener:
        server = uvicorn.Server(uvicorn.Config(app(shown), log_config=None, access_log=False, lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        host, port = listener.getsockname()
        try:
            yield Demo(
                address=f"http://{host}:{port}/",
                models=[each.network.model for each in shown],
                shape=shape,
                names=shown[0].manifest.class_names,
            )
        finally:
            server.should_exit = True
            thread.join()


def _shown(folder: Path, architecture: str, shape: tuple[int, int, int], classes: int) -> Shown:
    """Return an untrained network. Its weights are as if it were trained: all layers, and every class, answer."""
    import keras

    import models
    from jobs.demo.network import Network
    from models.training.export import portable

    keras.utils.set_random_seed(1)
    model = portable(models.build(architecture, shape, classes, standardize=(0.13, 0.31)))
    manifest = bare_manifest(shape, classes)
    return Shown(
        title=f"run {architecture}-0",
        recipe=architecture,
        accuracy=None,
        manifest=manifest,
        network=Network(model),
        gallery=Gallery(folder / "none", manifest, None),
    )
