"""python -m tests.benchmarks.recipes RECIPE … [--data DIR] [--seeds 0,1,2] [--work DIR]: measure recipes over seeds.

Runs each recipe once per seed, as `idxtrain run`, and prints one Markdown row per recipe: images and PFLOP of one
training, its minutes, the test accuracy of each seed, their mean and standard deviation. A run that is finished is not
repeated, and one that was stopped resumes, so a killed measurement continues with the same command. Nothing else should
run meanwhile.
"""

import argparse
import math
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.metrics import Metrics, read_metrics
from jobs.model_file.load import load_keras
from jobs.run_dir import RunDir, Work

HEADER = """\
| recipe | seeds | images | PFLOP | minutes | test accuracy in % | mean |
|---|---|---:|---:|---:|---|---:|"""


def main() -> None:
    options = _parse(sys.argv[1:])
    print(HEADER)
    for recipe in options.recipes:
        runs = [_run(recipe, seed, options) for seed in options.seeds]
        flops = training_flops(load_keras(runs[0].model_file, "remove the run's folder"))
        print(row(Path(recipe).stem, [read_metrics(run) for run in runs], flops), flush=True)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.recipes")
    parser.add_argument("recipes", nargs="+", metavar="RECIPE")
    parser.add_argument("--data", type=Path, help="a folder of archives (default: MNIST)")
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("work"))
    return parser.parse_args(arguments)


def _run(recipe: str, seed: int, options: argparse.Namespace) -> RunDir:
    """Run a recipe with a seed to its end, unless it has been; return its folder."""
    run = RunDir(Work(options.work).runs / f"{Path(recipe).stem}-{seed}")
    command = [sys.executable, "-m", "pipelines.cli", "run", "--work", str(options.work), "--run-id", run.run_id]
    if not run.config_file.exists():
        command += ["--recipe", recipe, "--seed", str(seed), *(["--data", str(options.data)] if options.data else [])]
    if not run.metrics_file.exists():
        subprocess.run(command, check=True, stdout=sys.stderr)
    return run


def training_flops(model: Any) -> int:
    """Return the floating-point operations with which a Keras model trains on one image.

    Multiplications and additions of the convolutions and dense layers, counted once each; the backward pass counts as
    two forward passes. Normalization, activations and updates, a few percent, are not counted.
    """
    products = 0
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            products += math.prod(layer.kernel.shape) * math.prod(layer.output.shape[1:-1])
    return 3 * 2 * products


def row(recipe: str, results: Sequence[Metrics], flops: int) -> str:
    """Return a recipe's row of the table. `flops`: per image. Times are the training's own, without start-up."""
    accuracies = [100 * metrics.test.accuracy for metrics in results]
    images = results[0].train.images
    minutes = [metrics.train.images / (metrics.train.images_per_second or math.inf) / 60 for metrics in results]
    spread = f" ± {statistics.stdev(accuracies):.2f}" if len(results) > 1 else ""
    cells = [
        f"`{recipe}`",
        ", ".join(str(metrics.seed) for metrics in results),
        f"{images:,}",
        f"{images * flops / 1e15:.3f}",
        f"{statistics.mean(minutes):.0f}",
        ", ".join(f"{accuracy:.2f}" for accuracy in accuracies),
        f"{statistics.mean(accuracies):.2f}{spread}",
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
