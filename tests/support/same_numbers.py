"""python -m tests.support.same_numbers OUT.json: write the figures that a change of structure or words must keep.

Run it in the checkout before the change and in the one after, each with that checkout's Python, then compare:
`python -m tests.support.same_numbers --compare BEFORE.json AFTER.json` prints what differs and exits with 1 if
anything does. The figures are the SHA-256 of the weights of 60 steps of `fast` on MNIST (deterministic and not, on one
rank and on two), the IDs and contents of datasets, the gate's decisions on made-up evidence, and the numbers in the
golden files. It takes two minutes on two cores.
"""

import hashlib
import io
import itertools
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from jobs.evaluate.comparison import Paired
from jobs.prepare import idx


def gate_names() -> tuple[Any, Any, Any, Any, Any]:
    """Return the gate's GateConfig, DataFacts, ModelFacts, Evidence and decide, from where this checkout has them."""
    modules = []
    for name in ("pipelines.gate.config", "pipelines.gate.facts", "pipelines.gate.decision", "pipelines.gate"):
        with suppress(ModuleNotFoundError):
            modules.append(import_module(name))
    names = ("GateConfig", "DataFacts", "ModelFacts", "Evidence", "decide")
    config, data, model, evidence, decide = (
        next(getattr(module, name) for module in modules if hasattr(module, name)) for name in names
    )
    return config, data, model, evidence, decide


ROOT = Path.cwd()
TRAININGS = {
    "deterministic": ("--set", "train.deterministic=true"),
    "as usual": (),
    "two ranks, deterministic": ("--np", "2", "--set", "train.deterministic=true"),
}
DATASETS: dict[str, tuple[str, ...]] = {
    "one pair": (),
    "some validation rows": ("--set", "prepare.validation_rows=7"),
    "spread": ("--set", "prepare.validation_from=spread"),
    "small shards": ("--set", "prepare.rows_per_shard=16"),
}


def idxtrain(*arguments: object) -> str:
    """Run the command line and return its stdout."""
    command = [str(Path(sys.executable).with_name("idxtrain")), *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def weights(model: Path) -> str:
    """Return the SHA-256 of all arrays of a .keras file, in the order of their names."""
    digest = hashlib.sha256()
    with zipfile.ZipFile(model) as archive, h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as file:
        arrays: list[tuple[str, Any]] = []
        file.visititems(lambda name, item: arrays.append((name, item)) if isinstance(item, h5py.Dataset) else None)
        for _, array in sorted(arrays):
            digest.update(np.asarray(array).tobytes())
    return digest.hexdigest()


def trainings(work: Path) -> Iterator[tuple[str, Any]]:
    """Train `fast` for 60 steps and yield the weights, the result line and the training's losses."""
    for name, options in TRAININGS.items():
        run_id = name.replace(" ", "-").replace(",", "")
        said = idxtrain("run", "--work", work, "--run-id", run_id, "--set", "train.max_steps=60", *options)
        metrics = json.loads((work / "runs" / run_id / "metrics.json").read_text())
        figures = {"test": metrics["test"], "validation": metrics["validation"]["accuracy"]}
        yield (
            f"training, {name}",
            {
                "weights": weights(work / "runs" / run_id / "model.keras"),
                "line": said.strip(),
                "metrics": hashlib.sha256(json.dumps(figures, sort_keys=True).encode()).hexdigest(),
                "dataset": metrics["dataset_id"],
            },
        )


def write_archives(folder: Path, tags: tuple[str, ...]) -> None:
    """Write a small data set, with a further training pair for each tag."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(1)
    for name, rows in (("train", 120), ("t10k", 30), *((f"train-{tag}", 60) for tag in tags)):
        split, _, tag = name.partition("-")
        images, labels = ("-".join(filter(None, (split, kind, tag))) for kind in ("images", "labels"))
        idx.write(folder / f"{images}-idx3-ubyte", random.integers(0, 256, (rows, 9, 11), np.uint8))
        idx.write(folder / f"{labels}-idx1-ubyte", (np.arange(rows) % 4).astype(np.uint8))


def parquet(dataset: Path) -> str:
    """Return the SHA-256 of all columns of a dataset, in the order of its files."""
    import pyarrow.parquet as pq

    digest = hashlib.sha256()
    for path in sorted(dataset.glob("*/*.parquet")):
        digest.update(f"{path.parent.name}/{path.name}".encode())
        digest.update(json.dumps(pq.read_table(path).to_pydict(), sort_keys=True).encode())
    return digest.hexdigest()


def datasets(work: Path) -> Iterator[tuple[str, Any]]:
    """Prepare small data sets and yield their IDs and contents."""
    for tags in ((), ("monday", "tuesday")):
        folder = work / f"data-{len(tags)}"
        write_archives(folder, tags)
        for name, options in DATASETS.items():
            if tags and options and "validation_rows" not in options[1]:
                continue
            before = set((work / "datasets").glob("*"))
            idxtrain("prepare", "--data", folder, "--work", work, *options)
            (made,) = set((work / "datasets").glob("[0-9a-f]*")) - before
            yield f"dataset, {name}, {len(tags)} further pairs", {"id": made.name, "content": parquet(made)}


def evaluation(test: dict[str, Any]) -> Any:
    """Return a test result as this checkout's gate takes it: as facts, or before they existed, as metrics.json's."""
    with suppress(ImportError):
        facts = import_module("pipelines.gate.facts")
        if hasattr(facts, "EvaluationFacts"):
            recalls = {str(each["label"]): each["recall"] for each in test["classes"]}
            return facts.EvaluationFacts(
                accuracy=test["accuracy"], ci95=tuple(test["ci95"]), count=test["count"], recalls=recalls
            )
    return test


def decisions() -> Iterator[tuple[str, Any]]:
    """Yield the gate's decisions, without their words."""
    GateConfig, DataFacts, ModelFacts, Evidence, decide = gate_names()  # noqa: N806
    tests = [
        {
            "accuracy": accuracy,
            "count": 10_000,
            "ci95": [accuracy - 0.002, accuracy + 0.002],
            "classes": [{"label": 0, "recall": 0.99}, {"label": 1, "recall": recall}, {"label": 2, "recall": None}],
        }
        for accuracy, recall in ((0.99, 0.98), (0.7, 0.4))
    ]
    models = [
        ModelFacts(bytes=1_000_000, latency_ms=3.0, difference=1e-7),
        ModelFacts(bytes=900_000_000, latency_ms=2e3, difference=1e-3),
        ModelFacts(bytes=1, latency_ms=None, difference=None, fault="torn"),
    ]
    paireds = [
        None,
        Paired(both=9_900, only_champion=20, only_challenger=40, neither=40),
        Paired(both=9_900, only_champion=60, only_challenger=20, neither=20),
        Paired(both=90, only_champion=3, only_challenger=3, neither=4),
    ]
    images = {"shape": (28, 28, 1), "classes": 2}
    data = DataFacts(name="all", label_counts=(500, 500), mean=0.13, std=0.3, **images)
    drifted = DataFacts(name="new", label_counts=(900, 100), mean=0.33, std=0.5, **images)
    configs = [
        GateConfig(rule=rule, drift=drift)
        for rule, drift in itertools.product(("not-worse", "better", "both"), ("report", "block"))
    ]
    for number, (config, test, model, paired, best) in enumerate(
        itertools.product(configs, tests, models, paireds, (paireds[0], paireds[2]))
    ):
        evidence = Evidence(
            test=evaluation(test),
            model=model,
            data=[data, drifted],
            champion_data=data if paired else None,
            paired=paired,
            best=best,
            best_name="version 3",
            test_images_in_training=number % 2,
        )
        decision = decide(config, evidence)
        checks = [
            [check.holds, check.blocks, check.figure, check.threshold] for check in decision.checks
        ]  # names aside: they are words
        yield f"decision {number}", {"promote": decision.promote, "checks": checks}


# A golden file of numbers is its text without names.
_NAMES = re.compile(r"[A-Za-z_][\w.-]*")
_NEW_NAMES = {"there-already.txt": "existing-cluster.txt"}  # of golden files renamed since


def golden(root: Path) -> Iterator[tuple[str, Any]]:
    """Yield every number of the golden files, in their order."""
    for path in sorted((root / "golden").rglob("*")):
        if path.is_file() and path.parent.name != "bench":
            name = _NEW_NAMES.get(path.name, path.name)
            yield f"golden {name}", re.findall(r"\d+", _NAMES.sub(" ", path.read_text()))


def compare(before: Path, after: Path) -> int:
    """Print what differs; return the exit code."""
    old, new = (json.loads(path.read_text()) for path in (before, after))
    different = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    for name in different:
        print(f"{name}: {old.get(name)} before, {new.get(name)} after")
    print(f"{len(old)} figures compared, {len(different)} differ")
    return bool(different)


def main() -> None:
    """Write the figures of this checkout."""
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, figure in itertools.chain(
            decisions(), golden(ROOT / "tests"), datasets(Path(folder)), trainings(Path(folder))
        ):
            figures[name] = figure
    Path(sys.argv[1]).write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n")
    print(f"{len(figures)} figures in {sys.argv[1]}")


if __name__ == "__main__":
    if sys.argv[1] == "--compare":
        sys.exit(compare(Path(sys.argv[2]), Path(sys.argv[3])))
    main()
