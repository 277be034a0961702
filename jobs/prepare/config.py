"""The config sections of the prepare stage."""

import re
from collections.abc import Mapping
from typing import Literal

from pydantic import Field, field_validator

from jobs.config import Section

MASTER = "IDXTRAIN_SPARK_MASTER"  # set by the launcher of prepare, if it has a Spark master for it

# Names of secrets, a wider net than Spark's own `spark.redaction.regex`. A value may hold one, too: Java options, or a
# URL with a password.
_SECRET = re.compile(
    r"secret|passw|token|credential|passphrase|(access|account|private|api|encryption|session|shared)[._-]?key",
    re.IGNORECASE,
)
_HOLDS_SECRET = re.compile(rf"({_SECRET.pattern})[^\s=]*=|://[^/\s]*:[^/\s]*@", re.IGNORECASE)
# Names that match, but only describe where a secret is stored or how long it is.
_HARMLESS = re.compile(r"(file|path|provider|class|enabled|bitlength|length|algorithm)$", re.IGNORECASE)


class PrepareConfig(Section):
    """What the dataset is. These keys and the archives' checksums determine the dataset's ID."""

    # The default is the lecture's 5,000 of MNIST's 60,000.
    validation_rows: int | None = Field(
        default=None,
        ge=0,
        description="Rows of the training archive held out for validation. `none`: a twelfth of them.",
    )
    validation_from: Literal["first", "last", "spread"] = Field(
        default="first",
        description=(
            "Which rows of the training archive are held out: the first, the last, or evenly spread rows. "
            "Choose `spread` for archives sorted by class."
        ),
    )
    rows_per_shard: int | None = Field(
        default=None,
        ge=1,
        description=(
            "Rows per Parquet file, which is one row group. `none`: 2,500, or fewer if those exceed 32 MiB of float32."
        ),
    )


class SparkConfig(Section):
    """Where Spark runs. No key changes the dataset."""

    master: str = Field(
        default="local",
        pattern=r"^(local$|local[\[-]|yarn$|spark://|k8s://|mesos://)",
        description=(
            "Spark master URL. `local`: in the prepare process, one thread per available CPU. Same as `--spark-master`."
        ),
    )
    properties: dict[str, str] = Field(
        default_factory=dict,
        description=(
            'More Spark properties, such as {"spark.executor.memory" = "4g"}; they override the project\'s own. '
            "No secrets: put those into spark-defaults.conf."
        ),
    )

    @field_validator("properties")
    @classmethod
    def _hold_no_secret(cls, properties: dict[str, str]) -> dict[str, str]:
        """Raise ValueError for a secret: a config is written to disk, compared, and sent to the model registry."""
        for name, value in properties.items():
            if (_SECRET.search(name) and not _HARMLESS.search(name)) or _HOLDS_SECRET.search(value):
                raise ValueError(
                    f"found a secret under {name}, expected none, as a run's config is shared; fix: "
                    "put it into spark-defaults.conf (mode 0600) in the folder that SPARK_CONF_DIR names"
                )
        return properties

    def placed(self, environment: Mapping[str, str]) -> "SparkConfig":
        """Return the section with the launcher's master from the environment, if the config leaves it `local`."""
        master = environment.get(MASTER)
        return self.model_copy(update={"master": master}) if master and self.master == "local" else self
