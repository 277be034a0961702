"""From a finished run to the gate's evidence and decision."""

from dataclasses import replace

from jobs import segments
from jobs.dataset import Manifest, read_manifest
from jobs.metrics import ClassMetrics, TestMetrics, read_metrics
from jobs.run_dir import RunDir
from jobs.stage import dataset_of
from pipelines.config import Config
from pipelines.gate.decision import Decision, decide
from pipelines.gate.drift_checks import pair_name
from pipelines.gate.facts import DataFacts, EvaluationFacts, Evidence
from pipelines.retraining.comparison import read_comparison
from pipelines.retraining.records import Rivals, TrainingData


def decide_on(run: RunDir, config: Config, rivals: Rivals, difference: float = 0.0) -> Decision:
    """Return the gate's decision on a run.

    `difference`: the largest difference of any probability between the registry's copy of the model and the evaluation.
    """
    comparison = read_comparison(run)
    model, champion, best = comparison.model, rivals.champion, rivals.best
    if model.difference is not None:
        model = replace(model, difference=max(model.difference, difference))
    evidence = Evidence(
        test=evaluation_facts(read_metrics(run).test),
        model=model,
        data=data_facts(run, frozenset(champion.data.segments if champion else ())),
        champion_data=champion.data.training if champion else None,
        drift=comparison.drift,
        drift_unknown=comparison.drift_unknown,
        paired=comparison.paired,
        incomparable=comparison.incomparable,
        best=comparison.paired_best,
        best_name=f"the best champion so far (version {best.version})" if best else "the best champion so far",
        test_images_in_training=read_manifest(dataset_of(run)).duplicates.test_images_in_train,
    )
    return decide(config.gate, evidence)


def evaluation_facts(test: TestMetrics) -> EvaluationFacts:
    """Return the gate's facts from the `test` object of metrics.json."""
    return EvaluationFacts(
        accuracy=test.accuracy,
        ci95=test.ci95,
        count=test.count,
        recalls={_class_name(each): each.recall for each in test.classes},
    )


def _class_name(each: ClassMetrics) -> str:
    return each.name if each.name == str(each.label) else f"{each.label} ({each.name})"


def data_facts(run: RunDir, known: frozenset[str]) -> list[DataFacts]:
    """Return the facts of a run's training split and, if it has several segments, of each whose ID is not `known`."""
    directory = dataset_of(run)
    manifest = read_manifest(directory)
    infos = segments.read_segments(directory)
    new = [info for info in infos if info.segment_id not in known] if len(infos) > 1 else []
    return [_training_split(manifest), *(_segment(manifest, info) for info in new)]


def _segment(manifest: Manifest, info: segments.SegmentInfo) -> DataFacts:
    """Return the facts of one segment, with the labels that it has."""
    counts = {label: count for label, count in zip(manifest.labels, info.label_counts, strict=False) if count}
    return DataFacts(
        name=pair_name(info.tag),
        shape=manifest.shape,
        classes=len(counts),
        labels=tuple(counts),
        label_counts=tuple(counts.values()),
        mean=info.mean,
        std=info.std,
    )


def _training_split(manifest: Manifest) -> DataFacts:
    return DataFacts(
        name="training data",
        shape=manifest.shape,
        classes=manifest.classes,
        label_counts=manifest.splits["train"].label_counts,
        mean=manifest.pixels.mean,
        std=manifest.pixels.std,
        labels=manifest.labels[: manifest.classes],
    )


def training_data(run: RunDir) -> TrainingData:
    """Return what the gate compares later training data with."""
    directory = dataset_of(run)
    return TrainingData(
        training=_training_split(read_manifest(directory)),
        segments=tuple(info.segment_id for info in segments.read_segments(directory)),
    )
