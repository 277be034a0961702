"""The config sections of the prepare stage."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from jobs.config import Section
from jobs.dataset import PixelType
from jobs.label_options import LabelOptions, UnseenClasses
from jobs.object_store import require_url
from jobs.orientation import Orientation
from jobs.prepare.findings.finding import Kind

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

_RULES = ("first", "last", "spread", "stratified", "group")
_FOLD = re.compile(r"fold:([1-9][0-9]{0,5})/([1-9][0-9]{0,5})")


class PrepareConfig(Section):
    """What the dataset is. The archives' checksums and these keys but `store`, `strict` and `accept` decide its ID."""

    # The default is the lecture's 5,000 of MNIST's 60,000.
    validation_rows: int | None = Field(
        default=None,
        ge=0,
        description="Rows of the training archive held out for validation. `none`: a twelfth of them.",
    )
    validation_from: str = Field(
        default="stratified",
        description=(
            "Which rows of the training archive are held out: the `first`, the `last`, evenly `spread` rows, the same "
            "share of each class (`stratified`), whole groups of `prepare.groups` (`group`), or one of K folds, "
            "`fold:I/K` with I from 1, which are stratified or, with `prepare.groups`, whole groups."
        ),
    )
    groups: str | None = Field(
        default=None,
        description=(
            "File with one group per row of the training archive, such as its writer: IDX, or CSV. No group is then in "
            "two splits."
        ),
    )
    group_column: str = Field(
        default="0",
        description="Column of the groups in that file: a number from 0, or a name in the header of a CSV.",
    )
    test_rows: int | None = Field(
        default=None,
        ge=1,
        description=(
            "Rows of the training archive that make the test split of a data set without test archives. They are "
            "stratified, or whole groups. Of several pairs, each gives this number. `none`: a tenth of them."
        ),
    )
    unseen_classes: UnseenClasses = Field(
        default="refuse",
        description=(
            "What to do with test images of classes that training lacks: `refuse` the data set, `ignore` the images, "
            "or `count` them as errors."
        ),
    )
    orientation: Literal["auto", Orientation] = Field(
        default="auto", description="What turns the stored images upright. `auto`: as the data set's description says."
    )
    label_column: int | None = Field(
        default=None,
        ge=0,
        description=(
            "Column of the label in label archives of several numbers per image (idx2), from 0. `none`: as the data "
            "set's description says; where it says nothing, one-hot archives are recognized, and else it is column 0."
        ),
    )
    pixels: PixelType = Field(
        default="float32",
        description=(
            "How the dataset stores pixels: `float32`, normalized, or `uint8`, as in archives of uint8. With `uint8`, "
            "rows decode about 20 times as fast and take a quarter of the memory; training gives the same numbers."
        ),
    )
    exclude: str | None = Field(
        default=None,
        description=(
            "CSV or JSON file of rows to leave out of training and validation, such as the list of findings. Columns: "
            "`role` (`train`), `row` (from 0), and `tag` in data sets of several pairs."
        ),
    )
    rows_per_shard: int | None = Field(
        default=None,
        ge=1,
        description=(
            "Rows per Parquet file, which is one row group. `none`: 2,500, or fewer if those exceed 32 MiB of float32; "
            "more if there would be more than 16,384 files, up to 128 MiB."
        ),
    )

    store: str | None = Field(
        default=None,
        description=(
            "URL of a folder in an object store or Hadoop for the dataset's shards: s3://, s3a:// or hdfs://, without "
            "credentials. The rest of the dataset stays in the work folder. `none`: shards stay there, too."
        ),
    )
    strict: bool = Field(
        default=False,
        description="Refuse a dataset with findings, see `findings.csv` in its folder. Same as `--strict`.",
    )
    accept: tuple[Kind, ...] = Field(
        default=("outlier",), description="Kinds of findings that `strict` does not refuse."
    )

    def content(self) -> dict[str, Any]:
        """Return the options that decide what a dataset holds, as JSON.

        Without the default of `pixels`, which has no part in dataset IDs: they are older than that option.
        """
        default = {"pixels"} if self.pixels == "float32" else set()
        return self.model_dump(mode="json", exclude={"store", "strict", "accept", *default})

    @field_validator("validation_from")
    @classmethod
    def _is_a_rule(cls, text: str) -> str:
        match = _FOLD.fullmatch(text)
        if text not in _RULES and not (match and int(match[1]) <= int(match[2]) and int(match[2]) > 1):
            raise ValueError(f"found {text!r}, expected one of {', '.join(_RULES)}, fold:I/K with I from 1 to K")
        return text

    @field_validator("groups", "exclude")
    @classmethod
    def _is_absolute(cls, path: str | None) -> str | None:
        """Return the path as seen from the folder in which the user gave it: a stage may run in another one."""
        if path and not path.isprintable():
            raise ValueError(f"found {path!r}, expected a path of printable text")
        return path and str(Path(path).expanduser().absolute())

    @field_validator("store")
    @classmethod
    def _is_url(cls, url: str | None) -> str | None:
        return url and require_url(url).rstrip("/")

    @field_validator("group_column", mode="before")
    @classmethod
    def _is_text(cls, column: Any) -> Any:
        return str(column) if isinstance(column, int) and not isinstance(column, bool) else column

    @field_validator("orientation", mode="before")
    @classmethod
    def _none_is_a_name(cls, orientation: Any) -> Any:
        """Return `none`, which the command line reads as no value, as the orientation of that name."""
        return "none" if orientation is None else orientation

    @model_validator(mode="after")
    def _fits_together(self) -> "PrepareConfig":
        rule = self.validation_from
        if rule == "group" and not self.groups:
            raise ValueError("found validation_from=group without groups, expected both; fix: set prepare.groups=FILE")
        if self.groups and rule != "group" and not self.fold:
            raise ValueError(
                f"found groups with validation_from={rule}, which has a group on both sides; fix: set "
                "prepare.validation_from=group"
            )
        if self.fold and self.validation_rows is not None:
            raise ValueError(
                f"found validation_rows={self.validation_rows} with validation_from={rule}, expected none, as folds "
                "are equal in rows; fix: leave out prepare.validation_rows"
            )
        return self

    @property
    def labels(self) -> LabelOptions:
        """The options that decide how labels are read."""
        return LabelOptions(self.label_column, self.unseen_classes)

    @property
    def fold(self) -> tuple[int, int] | None:
        """Return I and K of `fold:I/K`, with I from 1; None for another rule."""
        match = _FOLD.fullmatch(self.validation_from)
        return (int(match[1]), int(match[2])) if match else None


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
