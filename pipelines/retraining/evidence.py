"""From a finished run to the gate's evidence, and to what the registry is given of it."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.registry.versions import Entry
from jobs import segments
from jobs.dataset import Manifest, read_manifest
from jobs.evaluate.comparison import Paired
from jobs.files import read_object
from jobs.run_dir import RunDir
from jobs.stage import dataset_of, read_record
from pipelines.config import Config, flat
from pipelines.gate.decision import Decision, decide
from pipelines.gate.facts import DataFacts, Evidence, ModelFacts

_ROOT = Path(__file__).parents[2]
_ROOMS = ("pipelines", "deploy", "jobs", "models")


def judge(
    run: RunDir,
    config: Config,
    champion: Mapping[str, Any] | None,
    difference: float = 0.0,
    best: Mapping[str, Any] | None = None,
) -> Decision:
    """Return the gate's decision on a run. `champion`: its note, as champion.json has it; None where there is none.

    `difference`: the largest of any probability that the registry's copy gave, from evaluation's. `best`: the note of
    the best champion so far, where it was compared with, too.
    """
    comparison = read_object(run.comparison_file, "run `idxtrain retrain` again")
    model = dict(comparison["model"])
    if model["difference"] is not None:
        model["difference"] = max(model["difference"], difference)
    paired, paired_best = comparison["paired"], comparison.get("paired_best")
    evidence = Evidence(
        test=read_metrics(run)["test"],
        model=ModelFacts(**model),
        data=data_facts(run, frozenset(champion["data"]["parts"] if champion else ())),
        champion_data=DataFacts.from_json(champion["data"]["training"]) if champion else None,
        paired=Paired.from_json(paired) if paired else None,
        incomparable=comparison["incomparable"],
        best=Paired.from_json(paired_best) if paired_best else None,
        best_name=f"the best champion so far (version {best['version']})" if best else "the best champion so far",
        test_images_in_training=read_manifest(_dataset(run)).duplicates.test_images_in_train,
    )
    return decide(config.gate, evidence)


def read_metrics(run: RunDir) -> dict[str, Any]:
    """Return metrics.json."""
    return read_object(run.metrics_file, "run `idxtrain retrain` again")


def data_facts(run: RunDir, known: frozenset[str]) -> list[DataFacts]:
    """Return the facts of a run's training split, then of its parts whose IDs are not `known`, if it has several."""
    directory = _dataset(run)
    manifest = read_manifest(directory)
    whole = _whole(manifest)
    found = segments.read_segments(directory)
    new = [part for part in found if part.segment_id not in known] if len(found) > 1 else []
    return [
        whole,
        *(
            DataFacts(f"new pair {part.tag or '(untagged)'}", manifest.shape, len(part.label_counts), part.label_counts,
                      part.mean, part.std)
            for part in new
        ),
    ]  # fmt: skip


def _whole(manifest: Manifest) -> DataFacts:
    counts, pixels = manifest.splits["train"].label_counts, manifest.pixels
    return DataFacts("training data", manifest.shape, manifest.classes, counts, pixels.mean, pixels.std)


def _dataset(run: RunDir) -> Path:
    return dataset_of(run)


def training_data(run: RunDir) -> dict[str, Any]:
    """Return what a later gate compares with: {"training": facts, "parts": IDs}."""
    directory = _dataset(run)
    return {
        "training": _whole(read_manifest(directory)).to_json(),
        "parts": [part.segment_id for part in segments.read_segments(directory)],
    }


def entry_of(run: RunDir, config: Config) -> Entry:
    """Return what the registry is given of a run: parameters, curves, metrics, dataset and code identity, files."""
    metrics, directory = read_metrics(run), _dataset(run)
    manifest = read_manifest(directory)
    figures = {
        "test_accuracy": metrics["test"]["accuracy"],
        "test_errors": metrics["test"]["errors"],
        "test_loss": metrics["test"]["loss"],
        "validation_accuracy": metrics["validation"]["accuracy"],
        "images_per_second": metrics["train"]["images_per_second"],
        "train_steps": metrics["train"]["steps"],
        **{f"seconds_{stage}": seconds for stage, seconds in metrics["seconds"].items()},
    }
    parameters = flat(config.to_json()) | {"world_size": metrics["world_size"], "dataset_id": metrics["dataset_id"]}
    return Entry(
        run_id=run.run_id,
        model=run.model_file,
        model_sha256=str(read_record(run, "train").outputs["model_sha256"]),
        shape=manifest.shape,
        classes=manifest.classes,
        parameters={key: str(value) for key, value in parameters.items()},
        metrics={key: float(value) for key, value in figures.items() if value is not None},
        curve=tuple(_curve(run.curve_file)),
        dataset_id=manifest.dataset_id,
        data=training_data(run),
        code={"code_sha256": code_identity(), **{f"version.{k}": str(v) for k, v in metrics["versions"].items()}},
        files=(run.report_file, run.metrics_file, run.config_file, run.comparison_file, directory / "manifest.json"),
    )


def _curve(path: Path) -> list[tuple[str, float, int]]:
    points = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            point = json.loads(line)
            kind, step = str(point.pop("kind")), int(point.pop("step"))
            values = {name: float(value) for name, value in point.items() if isinstance(value, int | float)}
        except (ValueError, KeyError, AttributeError, TypeError):  # a killed process may have left half a line
            continue
        points += [(f"{kind}/{name}", value, step) for name, value in values.items() if math.isfinite(value)]
    return points


def code_identity() -> str:
    """Return the SHA-256 of this project's source files, names and content: which code made a model."""
    digest = hashlib.sha256()
    for path in sorted(path for room in _ROOMS for path in (_ROOT / room).rglob("*.py")):
        digest.update(str(path.relative_to(_ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
