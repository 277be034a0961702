"""The config sections of the prepare stage."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from jobs.config import Section

MASTER = "IDXTRAIN_SPARK_MASTER"  # set by whoever starts prepare with a Spark for it to use


class PrepareConfig(Section):
    """What the dataset is. Together with the archives' checksums these options make the dataset's ID."""

    # None: a twelfth of the training archive, which is the lecture's 5,000 of MNIST's 60,000.
    validation_rows: int | None = Field(default=None, ge=0)
    # Which rows of the training archive: the first (as in the lecture), the last, or evenly spread over it (for
    # archives sorted by class).
    validation_from: Literal["first", "last", "spread"] = "first"
    # Rows of a row group, which is a file. None: 2,500, or fewer where that would be more than 32 MiB of float32.
    rows_per_shard: int | None = Field(default=None, ge=1)


class SparkConfig(Section):
    """Where Spark runs. None of it changes the dataset."""

    # "local": this process, one thread for each CPU it may use. Any other master URL goes to Spark as it is.
    master: str = Field(default="local", pattern=r"^(local$|local[\[-]|yarn$|spark://|k8s://|mesos://)")
    # Further Spark properties, e.g. {"spark.executor.memory" = "4g"}. They override ours.
    properties: dict[str, str] = Field(default_factory=dict)

    def placed(self, environment: Mapping[str, str]) -> "SparkConfig":
        """Return the section with the master that this process was started with, where it leaves that open."""
        master = environment.get(MASTER)
        return self.model_copy(update={"master": master}) if master and self.master == "local" else self
