"""The config section of the launcher."""

from pydantic import Field

from jobs.config import Section


class LaunchConfig(Section):
    """How many ranks train and evaluate, and what happens when one fails.

    No key changes rows or batches, so a run may be resumed with other values.
    """

    np: int | None = Field(
        default=None,
        ge=1,
        description=(
            "Ranks to train on, and to evaluate on if there are at least 40 batches for each. `none`: one per visible "
            "GPU, or 1. Same as `--np`."
        ),
    )
    max_restarts: int = Field(
        default=3,
        ge=0,
        description="How often, at most, all ranks restart from the last checkpoint after one died or stalled.",
    )
    min_np: int | None = Field(
        default=None,
        ge=1,
        description=(
            "Fewest ranks to continue with: each restart that makes no progress uses one rank fewer. "
            "`none`: never fewer than `np`."
        ),
    )
    stall_seconds: float = Field(
        default=120, ge=5, description="Seconds without any progress after which a rank counts as stalled."
    )
