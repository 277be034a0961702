"""When a training is reported to have ended too early."""

from pathlib import Path

import pytest

from jobs import training_log
from jobs.train.caveats import training_caveats
from jobs.train.config import TrainConfig
from jobs.training_log import Kind


def kinds(path: Path, kind: Kind, losses: dict[int, float]) -> list[str]:
    with path.open("w", encoding="utf-8") as file:
        for step, loss in losses.items():
            training_log.append(file, kind, step, loss=loss)
    return [caveat.kind for caveat in training_caveats(path, max(losses), TrainConfig(epochs=3))]


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ({215: 0.121, 430: 0.0366, 645: 0.0255}, []),  # `fast` on MNIST
        ({275: 0.3397, 550: 0.3006, 825: 0.2933, 1000: 0.2852}, []),  # `softmax` on MNIST
        ({6: 1.9, 12: 1.3, 18: 1.0}, ["few-updates", "loss-still-falling"]),
        ({600: 1.9, 1200: 1.3, 1800: 1.0}, ["loss-still-falling"]),
        ({600: 1.9, 1200: 0.8, 1800: 1.0}, []),
        ({600: 0.9, 1200: 1.3, 1800: 1.0}, []),  # noise: it was lower before
        ({600: 1.0, 1750: 1.3, 1800: 0.98}, []),  # the step before the last is in the last tenth
    ],
)
def test_validations_show_whether_the_loss_was_still_falling(
    tmp_path: Path, losses: dict[int, float], expected: list[str]
) -> None:
    assert kinds(tmp_path / "train.jsonl", "validation", losses) == expected


@pytest.mark.parametrize(
    ("last", "expected"), [((0.9, 0.8), ["loss-still-falling"]), ((0.9, 0.88), []), ((0.9, 0.9), [])]
)
def test_without_an_earlier_validation_the_training_loss_decides(
    tmp_path: Path, last: tuple[float, float], expected: list[str]
) -> None:
    losses = {100: 2.0, 500: 1.0, 850: last[0], 900: last[0], 950: last[1], 1000: last[1]}
    assert kinds(tmp_path / "train.jsonl", "train", losses) == expected


def test_a_caveat_names_the_option_that_ended_the_training(tmp_path: Path) -> None:
    log = tmp_path / "missing.jsonl"
    (bounded,) = training_caveats(log, 40, TrainConfig(epochs=3, max_steps=40))
    (free,) = training_caveats(log, 39, TrainConfig(epochs=3, max_steps=40))
    (early,) = training_caveats(log, 39, TrainConfig(epochs=3, early_stopping=1), "early-stopping")
    assert early.text == "the model was trained for only 39 updates; raise train.early_stopping to train longer"
    assert bounded.text == "the model was trained for only 40 updates; raise train.max_steps to train longer"
    assert (
        free.text == "the model was trained for only 39 updates; raise train.min_steps or train.epochs to train longer"
    )
    assert free.figures == {"steps": 39}
