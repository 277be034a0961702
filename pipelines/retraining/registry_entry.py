"""From a finished run to its entry in the model registry."""

import math
from pathlib import Path

from deploy.registry.versions import Entry
from jobs import training_log
from jobs.dataset import read_manifest
from jobs.metrics import read_metrics
from jobs.run_dir import RunDir
from jobs.stage import dataset_of, read_record
from pipelines.config import Config, flat
from pipelines.retraining.code_identity import code_identity
from pipelines.retraining.evidence import training_data


def entry_of(run: RunDir, config: Config) -> Entry:
    """Return a run's entry: parameters, training curve, metrics, identities of dataset and code, and files."""
    metrics, directory = read_metrics(run), dataset_of(run)
    manifest = read_manifest(directory)
    figures = {
        "test_accuracy": metrics.test.accuracy,
        "test_errors": metrics.test.errors,
        "test_loss": metrics.test.loss,
        "validation_accuracy": metrics.validation.accuracy,
        "images_per_second": metrics.train.images_per_second,
        "train_steps": metrics.train.steps,
        **{f"seconds_{stage}": seconds for stage, seconds in metrics.seconds.model_dump().items()},
    }
    parameters = flat(config.to_json()) | {"world_size": metrics.world_size, "dataset_id": metrics.dataset_id}
    return Entry(
        run_id=run.run_id,
        model=run.model_file,
        model_sha256=str(read_record(run, "train").outputs["model_sha256"]),
        shape=manifest.shape,
        labels=manifest.labels[: manifest.classes],
        class_names=manifest.class_names[: manifest.classes],
        parameters={key: str(value) for key, value in parameters.items()},
        metrics={key: float(value) for key, value in figures.items() if value is not None},
        curve=tuple(_curve(run.curve_file)),
        dataset_id=manifest.dataset_id,
        data=training_data(run).model_dump(mode="json"),
        code={"code_sha256": code_identity(), **{f"version.{name}": text for name, text in metrics.versions.items()}},
        files=(run.report_file, run.metrics_file, run.config_file, run.comparison_file, directory / "manifest.json"),
    )


def _curve(path: Path) -> list[tuple[str, float, int]]:
    """Return (key, value, step) of each finite figure in a training log."""
    return [
        (f"{entry['kind']}/{name}", float(value), entry["step"])
        for entry in training_log.read(path)
        for name, value in entry.items()
        if name not in ("kind", "step") and isinstance(value, int | float) and math.isfinite(value)
    ]
