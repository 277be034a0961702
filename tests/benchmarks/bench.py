"""python -m tests.benchmarks.bench [--rounds 3] [--out FILE]: idxtrain and its peers in turn, and the ratios.

Each round runs every contender once, as a whole process, start-up and all, from the four .gz files in a fresh work
directory. The table gives medians and the spread; ratios are taken within a round. Nothing else should run meanwhile.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from jobs.fetch.catalog import CATALOG
from jobs.fetch.offline import OfflinePackage
from jobs.prepare import idx
from jobs.train.devices import usable_cpus


@dataclass(frozen=True)
class Result:
    """One run of one contender: wall seconds of the whole process, and the accuracy on the 10,000 test images."""

    seconds: float
    accuracy: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("RESULTS.md"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        archives = write_archives(Path(folder) / "archives")
        contenders: dict[str, Callable[[], Result]] = {
            "idxtrain run": lambda: run_idxtrain(archives, Path(folder)),
            "the lecture's script": lambda: run_lecture(archives),
        }
        results: dict[str, list[Result]] = {name: [] for name in contenders}
        for number in range(options.rounds):
            for name, contender in contenders.items():
                print(f"round {number + 1} of {options.rounds}: {name}", file=sys.stderr, flush=True)
                results[name].append(contender())
    text = table(results)
    options.out.write_text(text, encoding="utf-8")
    print(text)


def write_archives(folder: Path) -> Path:
    """Write MNIST's four archives as .gz, from the offline package."""
    folder.mkdir()
    for role, archive in CATALOG["mnist"].archives.items():
        plain = OfflinePackage().get(role, archive, folder)
        idx.write(folder / archive.gz_name, idx.read(plain))
        plain.unlink()
    return folder


def run_idxtrain(archives: Path, folder: Path) -> Result:
    with tempfile.TemporaryDirectory(dir=folder) as work:
        command = [
            sys.executable,
            "-m",
            "pipelines.cli",
            "run",
            "--data",
            str(archives),
            "--work",
            work,
            "--run-id",
            "b",
        ]
        seconds, _ = timed(command)
        metrics = json.loads((Path(work) / "runs/b/metrics.json").read_text(encoding="utf-8"))
    return Result(seconds, metrics["test"]["accuracy"])


def run_lecture(archives: Path) -> Result:
    seconds, output = timed([sys.executable, "-m", "tests.benchmarks.peers.lecture_script", str(archives)])
    line = next(line for line in output.splitlines() if line.startswith("test accuracy"))
    return Result(seconds, float(line.split()[-1]))


def timed(command: list[str]) -> tuple[float, str]:
    begin = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    return time.perf_counter() - begin, done.stdout


def table(results: dict[str, list[Result]]) -> str:
    """Return the results as Markdown."""
    lines = [
        f"Median of {len(results['idxtrain run'])} rounds (lowest to highest); {cpu_model()}, {usable_cpus()} cores, "
        f"Python {platform.python_version()}, TensorFlow {version('tensorflow')}; {time.strftime('%Y-%m-%d')}.",
        "",
        "| from the .gz files to a test-evaluated model | seconds | test accuracy | seconds ÷ idxtrain's, by round |",
        "|---|---:|---:|---:|",
    ]
    reference = [result.seconds for result in results["idxtrain run"]]
    for name, runs in results.items():
        seconds = [run.seconds for run in runs]
        ratios = [s / r for s, r in zip(seconds, reference, strict=True)]
        accuracy = statistics.median(run.accuracy for run in runs)
        lines.append(f"| {name} | {spread(seconds, '.1f')} | {accuracy:.4f} | {spread(ratios, '.2f')} |")
    return "\n".join(lines) + "\n"


def spread(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return os.uname().machine


if __name__ == "__main__":
    main()
