"""The config section of the evaluate stage."""

from pydantic import Field

from jobs.config import Section


class EvaluateConfig(Section):
    """How the test set is evaluated."""

    batch_size: int = Field(default=500, ge=1)  # images a forward pass; it does not change the result
