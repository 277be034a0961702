"""The config section of the launch."""

from pydantic import Field

from jobs.config import Section


class LaunchConfig(Section):
    """How many ranks train, and what happens when one fails. It changes neither rows nor batches, so a run may go on
    with other values.
    """

    np: int | None = Field(default=None, ge=1)  # None: one a visible GPU, else one
    # After a rank has died or stalled, all start anew from the last checkpoint, so many times; where that gets no
    # further, with a rank less each time, down to min_np (None: never with fewer than np).
    max_restarts: int = Field(default=3, ge=0)
    min_np: int | None = Field(default=None, ge=1)
    stall_seconds: float = Field(default=120, ge=5)
