"""Messages that count: one thing is singular, any other number of them plural."""

import re
from pathlib import Path

import numpy as np
import pytest

from jobs.convert.convert import Converted
from jobs.dataset import SPLITS
from jobs.words import counted
from pipelines.config import compose
from pipelines.plan import TrainingPlan, lines

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("number", "noun", "form", "text"),
    [
        (1, "error", ",", "1 error"),
        (0, "error", ",", "0 errors"),
        (2345, "error", ",", "2,345 errors"),
        (2345, "error", "d", "2345 errors"),
        (np.int64(1), "class", ",", "1 class"),
        (3, "class", ",", "3 classes"),
        (2, "batch", ",", "2 batches"),
        (2, "epoch", ",", "2 epochs"),
        (1, "training image", ",", "1 training image"),
    ],
)
def test_one_is_singular_and_any_other_number_is_plural(number: int, noun: str, form: str, text: str) -> None:
    assert counted(number, noun, form) == text


def test_a_plan_and_a_conversion_of_one_of_each_are_singular() -> None:
    plan = TrainingPlan(
        pairs=1, shards=dict.fromkeys(SPLITS, (1,)), is_exact=True, row_shape=(2, 2), batch_size=1, last_batch=1,
        steps_per_epoch=1, steps=1, validation_steps=1, images=1, ranks=(), labels=None, excludes=False,
        config=compose("fast", {}).train, pixels="uint8", are_bytes=True, store=None,
    )  # fmt: skip
    text = "\n".join(lines(plan))
    assert "1 row in 1 shard of 1 row" in text
    assert "1 step, 1 image" in text
    converted = Converted(
        path=Path("data"), form="idx", images={"train": 1}, shape=(2, 2), classes=1, type_name="uint8"
    )
    assert converted.summary() == "data: 1 training image of 2 x 2 uint8, 1 class"


def test_no_message_puts_a_plural_noun_after_errors_or_files_that_may_be_one() -> None:
    """The nouns that people saw as `1 errors`: a count of them is written by `counted`."""
    plural = re.compile(
        r"(?:\{(?:len\([^{}]*\)|[\w.]*(?:errors|count|rows|classes|suspects))(?::,)?\}|%d) (?:errors|files|suspects)"
    )
    sources = [path for room in ("jobs", "pipelines", "deploy") for path in (ROOT / room).rglob("*.py")]
    found = [f"{path}: {match[0]}" for path in sources for match in plural.finditer(path.read_text())]
    # The result line is the same for any number, as scripts read it.
    assert found == [f"{ROOT}/pipelines/stages.py: {{test.errors}} errors"]
