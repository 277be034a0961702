"""Registry entries as the gate expects them of a champion: with facts of their training data."""

from dataclasses import replace
from pathlib import Path

from deploy.registry.versions import Entry
from pipelines.gate.facts import DataFacts
from pipelines.retraining.records import TrainingData
from tests import test_registry

TRAINING_DATA = TrainingData(
    training=DataFacts(name="training data", shape=(6, 5, 1), classes=4, label_counts=(5, 5, 5, 5), mean=0.5, std=0.3),
    segments=("a",),
)


def champion_entry(model: Path) -> Entry:
    """Return an entry of this model file, for run r1."""
    return replace(test_registry.entry_of(model), data=TRAINING_DATA.model_dump(mode="json"))
