"""What people know of a data set and its archives do not say: the names of its classes, and how its images lie.

It comes from the catalog, from `data.toml` in the user's folder, or from the options. `fetch` records it for `prepare`.
"""

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from jobs.config import Section
from jobs.label_options import ONE_HOT, Column
from jobs.orientation import Orientation


class PictureList(Section):
    """A list of the pictures that an archive was made of: see `jobs.pictures`. `archive`: what the list calls it."""

    path: Path
    sha256: str
    archive: str


class Description(Section):
    """What fetch knows of a data set beside its archives."""

    class_names: Mapping[int, str] = Field(
        default_factory=dict,
        description="Name of each class by its label in the archives; empty: labels are the names.",
    )
    orientation: Orientation = Field(default="none", description="What turns the stored images upright.")
    label_column: int = Field(
        default=0, ge=0, description="Column of the label in archives of several numbers per image (idx2)."
    )
    one_hot: bool = Field(
        default=False,
        description="Whether such archives are one-hot: each row has one 1, whose column is the class, and zeros.",
    )
    pictures: Mapping[str, PictureList] = Field(
        default_factory=dict, description="The names of the pictures that image archives were made of, by archive."
    )

    @property
    def column(self) -> Column:
        """Where the label is in such archives."""
        return ONE_HOT if self.one_hot else self.label_column
