"""What a conversion may be asked for."""

from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "test"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `idxtrain convert`; None leaves the choice to the source.

    `size`: height and width to resample pictures to. `shape`: height, width and maybe channels of an image in a table
    whose images are flat rows. `channels`: 1 or 3. `background`: the gray value, 0 or 255, behind transparent pixels.
    `label`: the label's column. `element_type`: of IDX, by its name in NumPy.
    `validation`: what becomes of a validation split.
    """

    size: tuple[int, int] | None = None
    shape: tuple[int, ...] | None = None
    channels: int | None = None
    background: int | None = None
    label: str | None = None
    element_type: str | None = None
    validation: Split | Literal["omit"] | None = None
    skip_bad: bool = False
    plain: bool = False

    def is_given(self, name: str) -> bool:
        """Return whether the option of this name was given; a background of 0, black, was."""
        value = getattr(self, name)
        return value is not None and value is not False
