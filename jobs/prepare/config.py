"""The config sections of the prepare stage."""

import re
from collections.abc import Mapping
from typing import Literal

from pydantic import Field, field_validator

from jobs.config import Section

MASTER = "IDXTRAIN_SPARK_MASTER"  # set by whoever starts prepare with a Spark for it to use

# Names of what must not be known, wider than Spark's own `spark.redaction.regex`; a value may hold one, too, as
# Java's options do, or a URL with a password.
_SECRET = re.compile(
    r"secret|passw|token|credential|passphrase|(access|account|private|api|encryption|session|shared)[._-]?key",
    re.IGNORECASE,
)
_HOLDS_SECRET = re.compile(rf"({_SECRET.pattern})[^\s=]*=|://[^/\s]*:[^/\s]*@", re.IGNORECASE)
# What is named so, but says where a secret lies or how long it is.
_TELLS_NONE = re.compile(r"(file|path|provider|class|enabled|bitlength|length|algorithm)$", re.IGNORECASE)


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
    # Further Spark properties, e.g. {"spark.executor.memory" = "4g"}. They override ours. No secrets: see below.
    properties: dict[str, str] = Field(default_factory=dict)

    @field_validator("properties")
    @classmethod
    def _hold_no_secret(cls, properties: dict[str, str]) -> dict[str, str]:
        """Raise ValueError for a secret: a config is written down, compared, and sent to the model registry."""
        for name, value in properties.items():
            if (_SECRET.search(name) and not _TELLS_NONE.search(name)) or _HOLDS_SECRET.search(value):
                raise ValueError(
                    f"spark.properties: found a secret under {name}, expected none, as a run's config is shared; fix: "
                    "put it into spark-defaults.conf (mode 0600) in the folder that SPARK_CONF_DIR names"
                )
        return properties

    def placed(self, environment: Mapping[str, str]) -> "SparkConfig":
        """Return the section with the master that this process was started with, where it leaves that open."""
        master = environment.get(MASTER)
        return self.model_copy(update={"master": master}) if master and self.master == "local" else self
