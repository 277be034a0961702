"""Class weights: by the archive's labels, 1 in the mean, and a factor of the training loss alone."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.dataset import Manifest, SplitInfo
from jobs.errors import InputError
from jobs.train.class_weights import class_weights
from jobs.train.compute.evaluator import make_evaluator
from jobs.train.compute.step import StepOptions, TrainStep
from jobs.train.config import TrainConfig
from models.training.augment import Augmentation
from models.training.optimizers import SGD, Hyperparameters
from tests.test_step import IMAGES, LABELS, RATE, ROWS, OneRank, make, share


def manifest(counts: list[int], labels: list[int]) -> Manifest:
    split = SplitInfo(rows=sum(counts), label_counts=tuple(counts), shards=())
    return Manifest.model_construct(classes=len(counts), labels=tuple(labels), splits={"train": split})


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=9).filter(any))
def test_balanced_gives_each_class_the_same_total_and_rows_a_mean_of_1(counts: list[int]) -> None:
    weights = class_weights(TrainConfig(epochs=1, class_weights="balanced"), manifest(counts, list(range(len(counts)))))
    assert weights is not None
    totals = [count * weight for count, weight in zip(counts, weights, strict=True) if count]
    assert totals == pytest.approx([sum(counts) / len(totals)] * len(totals))


def test_weights_go_by_the_archives_labels_and_others_have_the_same() -> None:
    config = TrainConfig(epochs=1, class_weights={-3: 4.0, 700: 2.0})
    weights = class_weights(config, manifest([10, 20, 10], [-3, 5, 700]))
    assert weights == pytest.approx((2.0, 0.5, 1.0))
    assert class_weights(TrainConfig(epochs=1), manifest([1], [0])) is None


def test_a_label_that_training_does_not_have_is_refused_with_those_it_has() -> None:
    with pytest.raises(InputError, match=r"^train\.class_weights: found label 2, expected .*: -3, 5; fix: "):
        class_weights(TrainConfig(epochs=1, class_weights={2: 1.0}), manifest([1, 1], [-3, 5]))


def test_class_weights_weight_the_loss_and_its_gradient_and_not_the_accuracy() -> None:
    weights = (3.0, 1.0, 0.5, 0.1)
    changes, results = [], []
    for options, row_weights in ((StepOptions(class_weights=weights), 1.0), (StepOptions(), np.take(weights, LABELS))):
        model, _ = make(dropout=0)
        before = model.get_weights()
        optimizer = SGD([v.value for v in model.trainable_variables], Hyperparameters())
        call = replace(share(0, ROWS), weights=np.full((1, ROWS), row_weights, np.float32))
        results.append(TrainStep(model, optimizer, OneRank(), Augmentation(), 5, options)(call, RATE))
        changes.append([new - old for new, old in zip(model.get_weights(), before, strict=True)])
    for one, other in zip(*changes, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(results[0].loss_sums, results[1].loss_sums, rtol=1e-6)
    assert results[0].correct == (make_evaluator(model)(IMAGES[0], LABELS[0])[0] == LABELS[0]).sum()
