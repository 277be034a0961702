"""How the images of an archive may lie. Imports nothing heavy."""

from typing import Literal

# What turns a stored image upright. Rotations are counterclockwise; `mirror` swaps left and right, `flip` top and
# bottom; `anti-transpose` reflects about the other diagonal.
Orientation = Literal["none", "transpose", "anti-transpose", "rotate-90", "rotate-180", "rotate-270", "mirror", "flip"]
