"""python -m tests.support.lecture_picture RUN FOLDER: a picture of pipelines/LECTURE.md, of a first layer's weights.

RUN is the folder of a run on gray images. The picture is what TensorBoard's Images page shows, enlarged, as
FOLDER/lecture-RECIPE.png.
"""

import io
import json
import math
import sys
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jobs.first_layer import colored, mosaic

_WIDTH = 480  # pixels, about


def main(run: Path, folder: Path) -> None:
    """Write the picture."""
    tiles = mosaic(np.array([colored(kernel) for kernel in kernels(run / "model.keras")]))
    picture = Image.fromarray((255 * tiles).round().astype(np.uint8))
    times = max(1, round(_WIDTH / picture.width))
    large = picture.resize((times * picture.width, times * picture.height), Image.Resampling.NEAREST)
    recipe = json.loads((run / "config.json").read_text(encoding="utf-8"))["recipe"]
    large.quantize(64).save(folder / f"lecture-{recipe}.png", optimize=True)


def kernels(model: Path) -> NDArray[Any]:
    """Return the first layer's kernels, [tiles, height, width, 1], from a Keras file, without loading TensorFlow."""
    with zipfile.ZipFile(model) as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
        layers = file["layers"]
        first = next(layers[name] for name in ("conv2d", "dense") if name in layers)
        kernel = np.asarray(first["vars/0"])
    side = math.isqrt(len(kernel))
    shaped = kernel if kernel.ndim == 4 else kernel.reshape(side, side, 1, -1)
    return shaped.transpose(3, 0, 1, 2)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
