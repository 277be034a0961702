"""Demos to open in a browser: of a trained run, by `idxtrain demo`, and of untrained networks of any shape."""

import multiprocessing
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from numpy.typing import NDArray

from jobs.demo.app import app
from jobs.demo.guard import QUERY
from jobs.demo.server import listen
from jobs.run_dir import Work
from tests.support.demo_models import shown, untrained

TOKEN = "token-of-a-test"  # noqa: S105
IDXTRAIN = Path(sys.executable).with_name("idxtrain")


@dataclass(frozen=True, kw_only=True)
class Demo:
    """A demo that is served. `address`: with its token. `models`: the same keras.Models. `names`: of the classes."""

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
    """Serve the model of a run on MNIST with `idxtrain demo`, in a process of its own."""
    import keras

    command = [str(IDXTRAIN), "demo", run_id, "--no-open", "--work", str(work.path)]
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
def serving(architectures: Sequence[str], shape: tuple[int, int, int], classes: int) -> Iterator[Demo]:
    """Serve untrained networks, without test images, from a thread of this process."""
    models = [untrained(architecture, shape, classes, seed) for seed, architecture in enumerate(architectures)]
    every = shown(models)
    with listen(0) as listener:
        server = uvicorn.Server(uvicorn.Config(app(every, TOKEN), log_config=None, access_log=False, lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        host, port = listener.getsockname()
        try:
            yield Demo(
                address=f"http://{host}:{port}/?{QUERY}={TOKEN}",
                models=models,
                shape=shape,
                names=every[0].manifest.class_names,
            )
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def serving_apart(architecture: str) -> Iterator[str]:
    """Serve an untrained network for 28 × 28 pixels from a process of its own, as users do. Yield the address."""
    spawned = multiprocessing.get_context("spawn")
    ours, theirs = spawned.Pipe()
    process = spawned.Process(target=_serve, args=(architecture, theirs))
    process.start()
    theirs.close()
    try:
        yield ours.recv()
    finally:
        ours.close()
        process.join()


def _serve(architecture: str, browser: Connection) -> None:
    """Send the address, and serve until the other end is closed."""
    with serving([architecture], (28, 28, 1), 10) as demo, suppress(EOFError):
        browser.send(demo.address)
        browser.recv()
