"""CONTRIBUTING's table "To add …": what else a new name has to reach."""

import dataclasses
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from jobs.evaluate.metrics import summarize
from jobs.evaluate.results import collect
from jobs.fetch.catalog import CATALOG
from jobs.metrics import CaveatKind
from jobs.train.config import TrainConfig
from models.training import schedules
from models.training.augment import Augmentation
from models.training.optimizers import OPTIMIZERS, Hyperparameters
from tests.support.prepared import bare_manifest

PAGE = (Path(__file__).parent.parent / "jobs/README.md").read_text(encoding="utf-8")


def choices(key: str) -> set[str]:
    """Return the values that a config key of the train section allows."""
    return set(get_args(TrainConfig.model_fields[key].annotation))


def test_the_config_offers_every_optimizer_and_no_other() -> None:
    assert choices("optimizer") == set(OPTIMIZERS)


def test_the_config_offers_every_schedule_and_no_other() -> None:
    assert choices("schedule") == set(schedules._SHAPES)


@pytest.mark.parametrize("settings", [Augmentation, Hyperparameters])
def test_every_field_of_a_training_setting_is_a_config_key(settings: type[Any]) -> None:
    assert {field.name for field in dataclasses.fields(settings)} <= TrainConfig.model_fields.keys()


def test_the_page_names_every_data_set_of_the_catalog() -> None:
    assert [name for name in CATALOG if f"`{name}`" not in PAGE] == []


def test_the_page_names_every_caveat() -> None:
    assert [kind for kind in get_args(CaveatKind) if f"`{kind}`" not in PAGE] == []


def test_the_page_names_every_metric_of_the_test_set() -> None:
    predictions = collect(np.array([0, 1]), np.array([0, 1]), [np.eye(2, dtype=np.float32)])
    assert [name for name in dict(summarize(predictions, bare_manifest((1, 1, 1), 2))) if f"`{name}`" not in PAGE] == []
