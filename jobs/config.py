"""What all config sections have in common. Each job's own section lies beside its code."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen part of the config: unknown keys and values of the wrong type are errors, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
