"""The config section of the evaluate stage."""

from pydantic import Field

from jobs.config import Section


class EvaluateConfig(Section):
    """How the test set goes through the model. None of it changes which images count.

    `compare`: write what the gate of a retraining needs, too; `champion`: absolute path of the Keras file of the model
    to compare with, "" for none, whose SHA-256 is `champion_sha256`.
    """

    batch_size: int = Field(default=500, ge=1)  # images of one forward pass
    compare: bool = False
    champion: str = ""
    champion_sha256: str = ""
