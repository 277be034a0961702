"""Checks of the challenger alone: its test result, its file, and test images that it was trained on."""

from pipelines.gate.check import Check, at_least, at_most, failure
from pipelines.gate.config import GateConfig
from pipelines.gate.facts import EvaluationFacts, ModelFacts


def result_checks(config: GateConfig, test: EvaluationFacts) -> list[Check]:
    """Check the accuracy, and the lowest recall among the classes that have test images."""
    low, high = test.ci95
    text = f"test accuracy {test.accuracy:.4f} (95 % interval {low:.4f} to {high:.4f})"
    checks = [at_least("accuracy", test.accuracy, config.min_accuracy, text)]
    recalls = {name: recall for name, recall in test.recalls.items() if recall is not None}
    if recalls:
        name, recall = min(recalls.items(), key=lambda each: each[1])
        text = f"recall {recall:.4f} of class {name}, the lowest"
        checks.append(at_least("recall", recall, config.min_recall, text))
    return checks


def model_checks(config: GateConfig, model: ModelFacts) -> list[Check]:
    """Check that the model file loads, predicts as at evaluation, is small and is fast enough."""
    if model.difference is None or model.latency_ms is None:
        return [failure("model loads", f"the model file does not load: {model.fault}")]
    megabytes = model.bytes / 1e6
    return [
        Check(name="model loads", holds=True, text="the model file loads"),
        at_most(
            "same predictions",
            model.difference,
            config.max_difference,
            f"after reloading, probabilities differ by {model.difference:.4g}",
        ),
        at_most("size", megabytes, config.max_model_mb, f"the model file has {megabytes:.4g} MB"),
        at_most("latency", model.latency_ms, config.max_latency_ms, f"one image takes {model.latency_ms:.4g} ms"),
    ]


def leak_check(config: GateConfig, leaked: int, count: int) -> Check:
    """Check that few enough of the `count` test images are also in the training data."""
    ceiling = config.max_test_images_in_training
    text = f"{leaked} of {count} test images are also in the training data, expected at most {ceiling}"
    if leaked > ceiling:
        text += "; fix: remove them from the training archives, or allow them by gate.max_test_images_in_training"
    return Check(name="test images in training", holds=leaked <= ceiling, figure=leaked, threshold=ceiling, text=text)
