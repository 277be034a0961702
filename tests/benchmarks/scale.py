"""python -m tests.benchmarks.scale MNIST COPIES WORK: prepare MNIST × COPIES, and show time and memory.

MNIST: a folder with its archives. Ten training pairs and a test pair, every other one gzip, are written to
WORK/data-COPIES unless they are there. Copy 0 is MNIST. In every other copy each image is rolled by up to 8 pixels both
ways; no image is rolled twice by the same amount, so all images differ. Then `idxtrain prepare` runs. Printed: images
per second of wall time and of CPU time, and the largest memory of the driver (Python and Java) and of all of Spark's
Python workers together. "anonymous" is what a process has allocated; the rest are pages of files, which the kernel
drops when it needs them.
"""

import gzip
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from jobs.fetch.config import FetchConfig
from jobs.fetch.locate import locate
from jobs.prepare import idx

PAIRS = 10
_REACH = 8  # pixels
_SHOWN = ("driver", "java", "workers")


def main(mnist: Path, copies: int, work: Path) -> None:
    """Make the archives, prepare them, and print the figures."""
    folder = work / f"data-{copies}"
    if not folder.exists():
        make(mnist, copies, folder)
    idxtrain = str(Path(sys.executable).with_name("idxtrain"))
    arguments = ["--data", str(folder), "--dataset", "rolled", "--work", str(work), "--run-id", f"scale-{copies}"]
    start = time.monotonic()
    subprocess.run([idxtrain, "fetch", *arguments], check=True, capture_output=True)
    fetched = time.monotonic()
    with subprocess.Popen([idxtrain, "prepare", *arguments]) as process:
        peaks, seconds = watch(process)
    if process.returncode:
        sys.exit(process.returncode)
    wall, images = time.monotonic() - fetched, 70_000 * copies
    print(f"{images:,} images: fetch {fetched - start:.1f} s, prepare {wall:.1f} s, {seconds:.1f} s of CPU time")
    print(f"{images / wall:,.0f} images/s, {images / seconds:,.0f} images/s of CPU time")
    for name in _SHOWN:
        print(f"{name}: {peaks[name][0] / 1e6:,.0f} MB, of which {peaks[name][1] / 1e6:,.0f} MB anonymous")


def make(mnist: Path, copies: int, folder: Path) -> None:
    """Write the archives of all copies."""
    found = locate(FetchConfig(data=str(mnist.absolute()))).archives
    folder.mkdir(parents=True)
    for split, pairs in (("train", PAIRS), ("test", 1)):
        images, labels = idx.read(found[f"{split}_images"]), idx.read(found[f"{split}_labels"])
        rows = len(images) * copies // pairs
        prefix = "t10k" if split == "test" else "train"
        for pair in range(pairs):
            tag, suffix = ("" if split == "test" else f"-{pair:02}"), ".gz" * (pair % 2)
            header = idx.Header(images.dtype, (rows, *images.shape[1:]))
            bounds = pair * rows, (pair + 1) * rows
            name = f"{prefix}-images{tag}-idx3-ubyte"
            idx.write_blocks(folder / name, header, _rolled(images, *bounds))
            if suffix:
                _pack(folder / name)
            idx.write(folder / f"{prefix}-labels{tag}-idx1-ubyte{suffix}", labels[np.arange(*bounds) % len(labels)])


def _pack(path: Path) -> None:
    """Replace a file by its .gz, at the fastest level."""
    with path.open("rb") as plain, gzip.open(path.with_name(f"{path.name}.gz"), "wb", compresslevel=1) as packed:
        shutil.copyfileobj(plain, packed, 1 << 20)
    path.unlink()


def _rolled(images: NDArray[Any], start: int, stop: int, step: int = 10_000) -> Iterator[NDArray[Any]]:
    """Yield rows [start, stop) of all copies of images [n, height, width], a block at a time."""
    shifts = np.array([(y, x) for y in range(-_REACH, _REACH + 1) for x in range(-_REACH, _REACH + 1) if y or x])
    shifts = np.random.default_rng(0).permutation(shifts)
    for first in range(start, stop, step):
        rows = np.arange(first, min(first + step, stop))
        copy, image = rows // len(images), rows % len(images)
        block = images[image].copy()
        number = (image * 7 + copy) % len(shifts)
        for each in np.unique(number[copy > 0]):
            here = (number == each) & (copy > 0)
            block[here] = np.roll(block[here], tuple(shifts[each]), (1, 2))
        yield block


def watch(process: "subprocess.Popen[bytes]") -> tuple[dict[str, tuple[int, int]], float]:
    """Return the largest memory of each kind of process, resident and anonymous, and the CPU seconds of all."""
    peaks = dict.fromkeys(_SHOWN, (0, 0))
    cpu: dict[int, float] = {}
    while process.poll() is None:
        now = dict.fromkeys(_SHOWN, (0, 0))
        with suppress(psutil.NoSuchProcess):
            for each in psutil.Process(process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess, OSError):
                    words = " ".join(each.cmdline()[:5])
                    kind = "java" if "bin/java" in words else "driver" if "jobs.prepare" in words else "workers"
                    memory = each.memory_info()
                    resident, shared = memory.rss, memory.shared
                    now[kind] = now[kind][0] + resident, now[kind][1] + resident - shared
                    used = each.cpu_times()
                    cpu[each.pid] = used.user + used.system
        for kind, (resident, anonymous) in now.items():
            peaks[kind] = max(peaks[kind][0], resident), max(peaks[kind][1], anonymous)
        time.sleep(0.2)
    return peaks, sum(cpu.values())


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]).absolute())
