"""Class weights: by the archive's labels, 1 in the mean, and a factor of the training loss alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.dataset import Manifest, SplitInfo
from jobs.errors import InputError
from jobs.train.class_weights import class_weights
from jobs.train.config import TrainConfig


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
