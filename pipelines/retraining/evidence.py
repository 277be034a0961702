"""From a finished run to the gate's evidence and decision."""

from collections.abc import Sequence
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
    new = new_segments(run, champion.data if champion else None)
    if model.difference is not None:
        model = replace(model, difference=max(model.difference, difference))
    evidence = Evidence(
        test=evaluation_facts(read_metrics(run).test),
        model=model,
        data=data_facts(run, new),
        champion_data=champion.data.training if champion else None,
        # Without a new pair there is nothing to compare: it does not matter if the champion's dataset cannot be read.
        drift=comparison.drift if new else (),
        drift_unknown=comparison.drift_unknown if new else "",
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


def new_segments(run: RunDir, known: TrainingData | None) -> list[segments.SegmentInfo]:
    """Return the segments of a run's dataset whose archives are not among `known`, the champion's training data."""
    directory = dataset_of(run)
    pairs = read_manifest(directory).training_pairs
    infos = segments.read_segments(directory)
    return [info for info in infos if known is None or not known.has(info.segment_id, pairs[info.tag])]


def data_facts(run: RunDir, new: Sequence[segments.SegmentInfo]) -> list[DataFacts]:
    """Return the facts of a run's training split and, unless that is all of it, of each `new` segment."""
    manifest = read_manifest(dataset_of(run))
    only_segment = len(set(manifest.training_pairs.values())) == 1
    return [_training_split(manifest), *(_segment(manifest, info) for info in new if not only_segment)]


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
    manifest = read_manifest(dataset_of(run))
    return TrainingData(training=_training_split(manifest), pairs=tuple(manifest.training_pairs.values()))
