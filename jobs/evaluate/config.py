"""The config section of the evaluate stage."""

from pydantic import Field

from jobs.config import Section


class EvaluateConfig(Section):
    """How the test set goes through the model. None of it changes which images count.

    `compare`: write what the gate of a retraining needs, too; `champion`: absolute path of the Keras file of the model
    to compare with, "" for none, whose SHA-256 is `champion_sha256`. `best`, `best_sha256`: the same of a second one,
    the best champion so far. Only written where there is one, so that runs made before they existed stay done.
    """

    batch_size: int = Field(default=500, ge=1)  # images of one forward pass
    compare: bool = False
    champion: str = ""
    champion_sha256: str = ""
    best: str = Field(default="", exclude_if=lambda value: not value)
    best_sha256: str = Field(default="", exclude_if=lambda value: not value)
