"""What users decide about the labels of archives: their column, and what happens to test classes unseen in training."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from jobs.run_dir import RunDir

ONE_HOT: Literal["one-hot"] = "one-hot"
# Where the label is in archives of several numbers per image (idx2): in a column, from 0, or the column of the only 1.
Column = int | Literal["one-hot"]
UnseenClasses = Literal["refuse", "ignore", "count"]


@dataclass(frozen=True)
class LabelOptions:
    """The options of section prepare that a check of the archives needs. `column`: None if it is not given."""

    column: int | None = None
    unseen: UnseenClasses = "refuse"


NO_LABEL_OPTIONS = LabelOptions()


def label_options(run: "RunDir") -> LabelOptions:
    """Return the label options of a run's config, for fetch, which knows no other option of prepare."""
    prepare = run.read_config().get("prepare", {})
    return LabelOptions(prepare.get("label_column"), prepare.get("unseen_classes", "refuse"))
