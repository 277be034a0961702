"""What people know of a data set and its archives do not say: the names of its classes, and how its images lie.

It comes from the catalog, from `data.toml` in the user's folder, or from the options. `fetch` records it for `prepare`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field

from jobs.config import Section

# What turns a stored image upright. Rotations are counterclockwise; `mirror` swaps left and right, `flip` top and
# bottom; `anti-transpose` reflects about the other diagonal.
Orientation = Literal["none", "transpose", "anti-transpose", "rotate-90", "rotate-180", "rotate-270", "mirror", "flip"]


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
    pictures: Mapping[str, PictureList] = Field(
        default_factory=dict, description="The names of the pictures that image archives were made of, by archive."
    )
