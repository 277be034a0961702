"""The config section of the evaluate stage."""

from pydantic import Field

from jobs.config import Section


class EvaluateConfig(Section):
    """How the test set goes through the model. No key changes which images count.

    The keys of the second model are written only where they are set, so that older runs stay done.
    """

    batch_size: int = Field(default=500, ge=1, description="Images per forward pass. Fewer need less memory.")
    compare: bool = Field(default=False, description="Also write what the gate decides on. Set by `idxtrain retrain`.")
    champion: str = Field(
        default="",
        description=(
            "Absolute path of the Keras file to compare with; empty for no comparison. Set by `idxtrain retrain`."
        ),
    )
    champion_sha256: str = Field(
        default="", description="SHA-256 of `evaluate.champion`, in hex. Set by `idxtrain retrain`."
    )
    champion_dataset: str = Field(
        default="",
        exclude_if=lambda value: not value,
        description=(
            "Absolute path of the dataset that the champion was trained on; empty if it is not here. Set by "
            "`idxtrain retrain`."
        ),
    )
    best: str = Field(
        default="",
        exclude_if=lambda value: not value,
        description=(
            "Absolute path of a second Keras file to compare with, the best champion so far; empty for none. "
            "Set by `idxtrain retrain`."
        ),
    )
    best_sha256: str = Field(
        default="",
        exclude_if=lambda value: not value,
        description="SHA-256 of `evaluate.best`, in hex. Set by `idxtrain retrain`.",
    )
