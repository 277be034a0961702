"""The config section of the launch."""

from pydantic import Field

from jobs.config import Section


class LaunchConfig(Section):
    """How many ranks train. It changes neither rows nor batches, so a run may go on with another number."""

    np: int | None = Field(default=None, ge=1)  # None: one a visible GPU, else one
