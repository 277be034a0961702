"""The config section of the evaluate stage."""

from pydantic import Field

from jobs.config import Section


class EvaluateConfig(Section):
    """How the test set goes through the model. None of it changes which images count."""

    batch_size: int = Field(default=500, ge=1)  # images of one forward pass
